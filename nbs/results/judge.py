"""The evidence that the judge of candidates is fitted on: every contender of validation micrographs, and whether it is solved.

python nbs/results/judge.py collect OUT.jsonl --source SOURCE [--noise paper] [--n 60]
python nbs/results/judge.py pack nbs/results/judge.npz FILE.jsonl ... (judge_scans.npz for raw scans and straight ones beside them)

Collecting goes on where it stopped. The page on ranking fits the judges to what was packed and shows how sure they are.
"""
import argparse, json, os, sys, warnings
from pathlib import Path
import numpy as np
from tqdm import tqdm

KEPT = 12 # contenders of a micrograph, the best by the present judge; each has its lattice at rest
MOST_ATOMS = 24 # larger crystals take minutes


def contenders_of(crystal, noise, potential):
    "Evidence on the contenders of one micrograph, best first, whether each is solved, and how far the lattice is in doubt."
    from microscopygpt.chat import make_prompt
    from microscopygpt.compare import compare
    from microscopygpt.evaluation import draw_micrograph
    from microscopygpt.observe import Imaging
    from microscopygpt.model import load_model
    from microscopygpt.search import PROPOSERS, Search
    from microscopygpt.solve import on_its_scale
    from microscopygpt.rank import doubt_of
    vlm = load_model("compact")
    prompt = make_prompt(crystal.formula, dialect=vlm.dialect)
    question = Search(None, crystal.formula, prompt, 32, 0, lambda *said: None)
    question.use(None if potential == "none" else potential)
    run = lambda search: search.run(PROPOSERS[:2], vlm, [], KEPT)
    _, candidates = on_its_scale(question, draw_micrograph(crystal, noise), Imaging(), run, vlm)
    solved = [bool(compare(crystal.atoms, c.atoms, split=False).solved) for c in candidates]
    rows = [dict(x=c.features.tolist(), solved=right) for c, right in zip(candidates, solved)]
    return dict(rows=rows, doubt=doubt_of(candidates))


def collect(args):
    "Write a line for each micrograph, those that are there already left as they are."
    from microscopygpt.core import MicroscopyGPTError
    from microscopygpt.evaluation import draw
    done = {json.loads(line)["id"] for line in args.out.read_text().splitlines()} if args.out.is_file() else set()
    crystals = [c for c in draw([args.source], "validation", None) if len(c.slab.z) <= MOST_ATOMS][:args.n]
    kind = f"{Path(args.source).name.split('.')[0]}, {args.noise}" + ", no heights"*(args.heights == "none")
    for crystal in tqdm([c for c in crystals if c.id not in done], desc=kind):
        record = dict(id=crystal.id, formula=crystal.formula, kind=kind)
        try: record.update(contenders_of(crystal, args.noise, args.heights))
        except MicroscopyGPTError as e: record.update(rows=[], error=f"{type(e).__name__}: {e}")
        with open(args.out, "a", encoding="utf-8") as f: f.write(json.dumps(record) + "\n")


def pack(args):
    "All records in one file of arrays: evidence, solved, and which micrograph, of which kind and formula, each row belongs to."
    records = [json.loads(line) for path in args.files for line in path.read_text().splitlines()]
    rows = [(i, row) for i, record in enumerate(records) for row in record["rows"]]
    np.savez_compressed(args.out, evidence=np.array([row["x"] for _, row in rows], np.float32), solved=np.array([row["solved"] for _, row in rows]),
                        micrograph=np.array([i for i, _ in rows], np.int32), kind=np.array([r["kind"] for r in records]), formula=np.array([r["formula"] for r in records]),
                        doubt=np.array([r.get("doubt", 0.) for r in records], np.float32))
    print(f"{len(records)} micrographs, {len(rows)} contenders, written to {args.out}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("collect")
    one.add_argument("out", type=Path)
    one.add_argument("--source", required=True, help="a database, or a file of crystals; its validation half is taken")
    one.add_argument("--noise", default="paper")
    one.add_argument("--n", type=int, help="how many micrographs; all of them without")
    one.add_argument("--heights", default="chgnet", help="potential that computes heights; none: they stay as they were proposed")
    one.set_defaults(do=collect)
    two = commands.add_parser("pack")
    two.add_argument("out", type=Path)
    two.add_argument("files", type=Path, nargs="+")
    two.set_defaults(do=pack)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args.do(args)


if __name__ == "__main__": sys.exit(main())
