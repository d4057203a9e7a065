"The command line: every mistake costs one line and exit code 2; everything else ends in structures."
import importlib.util, json, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, tifffile
import microscopygpt
from microscopygpt.cli import main
from microscopygpt.observe import Imaging

DEMO = Path(microscopygpt.__file__).parent/"examples"/"demo.tif"

VERBS = ("predict", "sites", "simulate", "dataset", "train", "evaluate", "score", "benchmark", "lab")
RUN = "import sys; from microscopygpt.cli import main; sys.exit(main())"

def refused(capsys, *argv):
    "The one line with which a command is refused."
    assert main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("microscopygpt: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in err and len(err) > len("microscopygpt: ") + 10
    return err

# ---- what needs no model

@pytest.mark.parametrize("verb", VERBS)
def test_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"microscopygpt {verb}" in out and not err

def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS) and "Exit codes" in out

def test_version(capsys):
    from microscopygpt import __version__
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out

@pytest.mark.parametrize("argv, says", [
    ([], "VERB"),
    (["predikt", "scan.tif"], "predikt"),
    (["predict"], "--out"),
    (["predict", "scan.tif", "--formula", "MoS2"], "--out"),
    (["predict", "scan.tif", "--formula", "", "--out", "out"], "formula is empty"),
    (["predict", "scan.tif", "--formula", "  ", "--out", "out"], "formula is empty"),
    (["predict", "scan.tif", "--pixel-size", "small", "--out", "out"], "pixel-size"),
    (["predict", "scan.tif", "--k", "0", "--out", "out"], "--k"),
    (["predict", "scan.tif", "--k", "-3", "--out", "out"], "--k"),
    (["predict", "scan.tif", "--k", "five", "--out", "out"], "--k"),
    (["predict", "scan.tif", "--elements", " ", "--out", "out"], "no elements"),
    (["predict", "scan.tif", "--distortion", "much", "--out", "out"], "inferred"),
    (["predict", "scan.tif", "--relax", "magic", "--out", "out"], "magic"),
    (["predict", "scan.tif", "--propose", "columns,psychic", "--out", "out"], "psychic"),
    (["predict", "scan.tif", "--propose", "", "--out", "out"], "--propose"),
    (["predict", "scan.tif", "--heights", "magic", "--out", "out"], "magic"),
    (["evaluate", "--source", "c2db", "--propose", "model;columns", "--out", "out"], "--propose"),
    (["evaluate", "--source", "c2db", "--heights", "CHGNet", "--out", "out"], "--heights"),
    (["predict", "scan.tif", "--form", "MoS2", "--out", "out"], "--form"),
    (["simulate", "s.cif", "--out", "image.tif", "--miller", "0,0,0"], "Miller"),
    (["simulate", "s.cif", "--out", "image.tif", "--miller", "up"], "Miller"),
    (["simulate", "s.cif", "--out", "image.tif", "--size", "0"], "--size"),
    (["sites", "--out", "out"], "IMAGE"),
    (["sites", "scan.tif", "--formula", "MoS2"], "--out"),
    (["sites", "scan.tif", "--out", "out"], "--structure"),
    (["sites", "scan.tif", "--density", "-1", "--out", "out"], "--density"),
    (["dataset", "--out", "out"], "--source"),
    (["dataset", "--source", "c2db", "--split", "lucky", "--out", "out"], "lucky"),
    (["train", "--out", "out"], "--dataset"),
    (["evaluate", "--source", "c2db", "--subset", "best", "--out", "out"], "best"),
    (["evaluate", "--model", "compact", "--out", "out"], "--source"),
    (["score", "answers", "--out", "out"], "TRUTH"),
    (["score", "answers", "truth"], "--out"),
    (["score", "answers", "truth", "--workers", "0", "--out", "out"], "--workers"),
    (["benchmark", "--level", "loud", "--out", "out"], "loud"),
], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_arguments(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, *argv)
    assert says in line and "--help" in line
    assert not list(tmp_path.iterdir())

@pytest.fixture(params=["below a file", "a file", "/proc"])
def unwritable(request, tmp_path):
    "Folders that nobody can write to, not even root."
    file = tmp_path/"file"
    file.write_text("in the way")
    if request.param == "/proc" and not Path("/proc/self").exists(): pytest.skip("no /proc here")
    return {"below a file": file/"out", "a file": file, "/proc": Path("/proc/microscopygpt")}[request.param]

@pytest.mark.parametrize("argv", [
    ["predict", "scan.tif", "--formula", "MoS2"], ["sites", "scan.tif", "--formula", "MoS2"], ["dataset", "--source", "c2db"],
    ["train", "--dataset", "data"], ["evaluate", "--source", "c2db"], ["score", "answers", "truth"], ["benchmark"]], ids=lambda v: v[0])
def test_unwritable_folder(argv, unwritable, capsys):
    line = refused(capsys, *argv, "--out", unwritable)
    assert "Cannot write" in line and str(unwritable) in line and "--out" in line

def test_unwritable_image(unwritable, capsys, tmp_path):
    assert "Cannot write" in refused(capsys, "simulate", "s.cif", "--out", unwritable/"image.tif")
    assert "image.docx" in refused(capsys, "simulate", "s.cif", "--out", tmp_path/"image.docx")
    (tmp_path/"image.tif").mkdir()
    assert "directory" in refused(capsys, "simulate", "s.cif", "--out", tmp_path/"image.tif")

def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(args): raise ValueError("a bug")
    monkeypatch.setattr("microscopygpt.cli.run_lab", broken)
    with pytest.raises(ValueError, match="a bug"): main(["lab"])

def test_a_missing_extra_is_named(monkeypatch, capsys):
    def without(args): raise ModuleNotFoundError("No module named 'rsciio'", name="rsciio")
    monkeypatch.setattr("microscopygpt.cli.run_lab", without)
    assert "microscopygpt[io]" in refused(capsys, "lab")

def test_ctrl_c(monkeypatch):
    def stopped(args): raise KeyboardInterrupt
    monkeypatch.setattr("microscopygpt.cli.run_lab", stopped)
    assert main(["lab"]) == 130

def test_as_a_process(tmp_path):
    def run(*argv): return subprocess.run([sys.executable, "-c", RUN, *argv], capture_output=True, text=True, cwd=tmp_path)
    helped, wrong = run("predict", "--help"), run("predict", "scan.tif", "--out", "/proc/microscopygpt")
    assert helped.returncode == 0 and "--pixel-size" in helped.stdout and not helped.stderr
    assert wrong.returncode == 2 and wrong.stderr.startswith("microscopygpt: ") and wrong.stderr.count("\n") == 1

def test_help_loads_nothing_heavy():
    code = "import sys; from microscopygpt.cli import main; main(['predict', '--help']); sys.exit(bool({'torch', 'numpy', 'pymatgen', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

@pytest.fixture(scope="module")
def mos2():
    "2H MoS2, a = 3.18 Å."
    from jarvis.core.atoms import Atoms
    return Atoms(lattice_mat=[[3.18, 0, 0], [-1.59, 3.18*3**.5/2, 0], [0, 0, 18]], cartesian=False, elements=["Mo", "S", "S"],
                 coords=[[1/3, 2/3, .5], [2/3, 1/3, .5 + 1.56/18], [2/3, 1/3, .5 - 1.56/18]])

@pytest.fixture(scope="module")
def structure(mos2, tmp_path_factory):
    from microscopygpt.structure_files import write_crystal
    path = tmp_path_factory.mktemp("structure")/"mos2.cif"
    write_crystal(mos2, path)
    return path

# ---- sites

@pytest.fixture(scope="module")
def defective(mos2, tmp_path_factory):
    "A micrograph of MoS2 with vacancies, 256 px."
    from microscopygpt.build import supercell, vacancies
    from microscopygpt.micrograph import Micrograph, write_micrograph
    from microscopygpt.noise import Noise, add_noise
    from microscopygpt.stem import simulate
    sheet = vacancies(supercell(mos2, 40), .5, "Mo", seed=1)
    image = add_noise(simulate(sheet, .1, 256, rotation=5), Noise(blur=.05, dose=3000.), .1, seed=1)
    return write_micrograph(Micrograph(image, .1, "made"), tmp_path_factory.mktemp("frame")/"frame.tif")

SITE_FILES = {"sites.csv", "sites.json", "view.extxyz", "view.cif", "map.png", "strain.png"}

def test_sites_of_a_known_structure(defective, structure, tmp_path, capsys):
    out = tmp_path/"out"
    assert main(["sites", str(defective), "--structure", str(structure), "--elements", "W", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "columns of Mo and S2" in said and "vacancy" in said and "per nm²" in said and "Mo: W 0.00 %" in said and str(out) in said
    assert {p.name for p in out.iterdir()} == SITE_FILES
    lines = (out/"sites.csv").read_text().splitlines()
    assert lines[0] == "x_px,y_px,expected,call,detail,ratio,z,probability" and sum(",vacancy," in line for line in lines) >= 1
    settings = json.loads((out/"sites.json").read_text())
    assert settings["elements"] == ["W"] and settings["density_assumed"] == .01

def test_sites_of_a_formula(defective, tmp_path, capsys):
    "The crystal is predicted first, and what the prediction doubts is said."
    code = main(["sites", str(defective), "--formula", "MoS2", "--heights", "none", "--propose", "columns", "--out", str(tmp_path)])
    out, err = capsys.readouterr()
    assert code in (0, 3) and (code == 0) == (not err) and "residual" in out and {p.name for p in tmp_path.iterdir()} == SITE_FILES

@pytest.mark.parametrize("argv, says", [
    ([], "--formula"), (["--formula", "MoS2", "--structure", "s.cif"], "--structure"), (["--structure", "nowhere.cif"], "nowhere.cif"),
    (["--structure", "s.cif", "--density", "2"], "--density"), (["--structure", "s.cif", "--false-discoveries", "none"], "share"),
    (["--formula", "MoS2", "--elements", "Xx"], "Xx"), (["--formula", "Mo2S", "--pixel-size", "big"], "pixel-size")])
def test_sites_refuses(argv, says, defective, structure, tmp_path, capsys):
    argv = [str(structure) if a == "s.cif" else a for a in argv]
    assert says in refused(capsys, "sites", defective, *argv, "--out", tmp_path/"out")

def test_sites_of_another_crystal(defective, tmp_path, capsys):
    "A structure whose lattice is not in the image is refused, and nothing is written."
    from microscopygpt.crystal import monolayer
    from microscopygpt.structure_files import write_crystal
    wrong = write_crystal(monolayer("graphene"), tmp_path/"graphene.cif")
    assert "lattice" in refused(capsys, "sites", defective, "--structure", wrong, "--out", tmp_path/"out")
    assert not list((tmp_path/"out").iterdir())

def test_sites_of_what_is_no_image(structure, tmp_path, capsys):
    assert "gone.tif" in refused(capsys, "sites", tmp_path/"gone.tif", "--structure", structure, "--out", tmp_path/"out")
    (tmp_path/"text.tif").write_text("no image")
    assert "text.tif" in refused(capsys, "sites", tmp_path/"text.tif", "--structure", structure, "--out", tmp_path/"out")

# ---- score

@pytest.fixture
def answers(mos2, tmp_path):
    "Answers to three questions, and the truth."
    from microscopygpt.structure_files import write_crystal
    truth = tmp_path/"truth"; truth.mkdir()
    for name in "abc":
        write_crystal(mos2, truth/f"{name}.cif")
        (tmp_path/"answers"/f"{name}_0").mkdir(parents=True)
        write_crystal(mos2, tmp_path/"answers"/f"{name}_0"/"rank_1.cif")
    return tmp_path/"answers", truth, tmp_path/"out"

def test_score(answers, capsys):
    predictions, truth, out = answers
    (predictions/"b_0"/"rank_1.cif").write_text(""); (predictions/"c_0"/"rank_1.cif").unlink()
    assert main(["score", str(predictions), str(truth), "--out", str(out), "--name", "theirs"]) == 0
    told = capsys.readouterr().out
    assert "theirs" in told and "2 answers could not be used" in told and "b, rank 1" in told and "c, rank 1" in told and str(out) in told
    scores = json.loads((out/"scores.json").read_text())
    assert scores["Solved@1"]["value"] == pytest.approx(1/3) and scores["Solved@1"]["n"] == 3 and set(scores["Solved@1"]) == {"value", "low", "high", "n"}
    assert main(["score", str(predictions), str(truth), "--out", str(out), "--beside", str(out/"scores.json")]) == 0
    assert "theirs" in (out/"table.md").read_text()

def test_score_refuses(answers, capsys, tmp_path):
    predictions, truth, out = answers
    assert "no such folder" in refused(capsys, "score", tmp_path/"nowhere", truth, "--out", out)
    assert "ID.cif" in refused(capsys, "score", predictions, tmp_path/"nowhere", "--out", out)
    assert "holds no answer" in refused(capsys, "score", truth, truth, "--out", out)
    assert "does not hold the scores" in refused(capsys, "score", predictions, truth, "--out", out, "--beside", tmp_path/"none.json")
    (truth/"a.cif").write_text("data_")
    assert "a.cif" in refused(capsys, "score", predictions, truth, "--out", out)

@pytest.mark.skipif(not os.environ.get("MICROSCOPYGPT_DATA"), reason="MICROSCOPYGPT_DATA is not set: no databases here")
def test_evaluate_on_the_benchmark(tmp_path):
    argv = ["evaluate", "--subset", "benchmark", "--source", "dft_2d_2021", "--n", "2", "--model", "nearest-image", "--noise", "mid", "--out", str(tmp_path)]
    assert main(argv) == 0
    scores = json.loads((tmp_path/"scores.json").read_text())
    assert scores["Solved@1"]["n"] == 2 and scores["settings"]["subset"] == "benchmark" and "--source dft_2d_2021 --subset benchmark" in scores["settings"]["command"]
    assert main(["score", str(tmp_path/"predictions"), str(tmp_path/"truth"), "--out", str(tmp_path/"again")]) == 0
    assert json.loads((tmp_path/"again/scores.json").read_text())["sources"] == scores["sources"]

# ---- simulate

@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_simulate(structure, tmp_path, suffix):
    from microscopygpt.micrograph import read_micrograph
    images = [tmp_path/name/f"image{suffix}" for name in ("one", "two")]
    for path in images: assert main(["simulate", str(structure), "--out", str(path), "--size", "128", "--pixel-size", "0.1", "--seed", "3"]) == 0
    assert read_micrograph(images[0]).shape == (128, 128)
    assert images[0].read_bytes() == images[1].read_bytes()
    if suffix != ".tif": return
    assert read_micrograph(images[0]).pixel_size == pytest.approx(.1, rel=1e-4)
    with tifffile.TiffFile(images[0]) as tif: assert "simulated" in tif.imagej_metadata["Info"]

@pytest.mark.parametrize("options,atoms", [
    ([], 3), (["--twist", "13.2"], 114), (["--grain-boundary", "20", "--rotation", "15"], None), (["--vacancies", "1", "--substitute", "Mo=W:0.3", "--frozen", "0.05"], None),
    (["--antisites", "0.5", "--mirror", "--shift", "1,2"], None), (["--miller", "1,0,0"], None), (["--layers", "1"], 3), (["--probe", "atomvision", "--z-power", "2"], 3),
    (["--probe", "voltage=200,semi_angle=25,defocus=50,source_size=.2", "--u-rms", "Mo=.06,S=.1"], 3), (["--noise", "hard,dose=2000,drift=3"], 3)], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_simulate_makes(structure, options, atoms, tmp_path, capsys):
    from microscopygpt.micrograph import read_micrograph
    plain, made = tmp_path/"plain.tif", tmp_path/"made.tif"
    for path, more in ((plain, []), (made, options)):
        assert main(["simulate", str(structure), "--out", str(path), "--size", "160", "--pixel-size", "0.12", "--noise", "none", *more]) == 0
    said = capsys.readouterr().out.splitlines()[2]
    assert atoms is None or f" {atoms} atoms" in said
    image = read_micrograph(made)
    assert image.pixel_size == pytest.approx(.12, rel=1e-4) and image.data.std() > 0
    assert (image.data == read_micrograph(plain).data).all() == (options in ([], ["--layers", "1"]))

def test_a_grain_boundary_lies_in_the_middle(structure, tmp_path):
    "Left and right of it the lattice is turned the other way, so the halves' spectra are mirror images of each other, not equal"
    from microscopygpt.micrograph import read_micrograph
    assert main(["simulate", str(structure), "--out", str(tmp_path/"image.tif"), "--size", "256", "--noise", "none", "--grain-boundary", "20"]) == 0
    image = read_micrograph(tmp_path/"image.tif").data
    halves = [abs(np.fft.fft2((half-half.mean())*np.outer(*map(np.hanning, half.shape)), (256, 256))) for half in (image[:, :120], image[:, 136:])]
    alike = lambda a, b: np.corrcoef(a[:64].ravel(), b[:64].ravel())[0, 1]
    mirrored = np.roll(halves[1][:, ::-1], 1, 1)
    assert alike(halves[0], mirrored) > .9 > .7 > alike(*halves)

def test_simulate_from_an_identifier(tmp_path):
    from microscopygpt.data import have_database
    if not have_database("dft_2d_2021"): pytest.skip("JARVIS-DFT 2D is not on this machine")
    for name in ("JVASP-664", "jvasp-664"): assert main(["simulate", name, "--out", str(tmp_path/f"{name}.tif"), "--size", "64"]) == 0

@pytest.mark.parametrize("options,says", [
    (["--pixel-size", "-1"], "pixel_size"), (["--pixel-size", "0"], "pixel_size"), (["--pixel-size", "nan"], "pixel_size"), (["--probe", "sharp"], "--probe"), (["--probe", "volt=80"], "voltage"),
    (["--probe", "voltage=0"], "voltage"), (["--probe", "0"], "probe"), (["--noise", "loud"], "loud"), (["--noise", "paper,dsoe=3"], "dsoe"), (["--noise", "paper,dose"], "NAME=NUMBER"),
    (["--noise", "paper,dose=-3"], "dose"), (["--u-rms", "hot"], "NAME=NUMBER"), (["--u-rms", "-1"], "u_rms"), (["--shift", "1"], "pair of numbers"), (["--substitute", "Mo=W"], "Mo=W:0.2"),
    (["--substitute", "Ti=W:0.5"], "Ti"), (["--vacancies", "1e3"], "vacancies"), (["--layers", "0"], "--layers"), (["--miller", "0,0,0"], "Miller"),
    (["--probe", "atomvision", "--u-rms", "0.1"], "AtomVision")], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_simulate_refuses(structure, options, says, tmp_path, capsys):
    assert says in refused(capsys, "simulate", structure, "--out", tmp_path/"image.tif", *options)
    assert not (tmp_path/"image.tif").exists()

@pytest.mark.parametrize("rows,says", [
    ("Au Au 5 0 0 0 5 0 0 0 5 0 0 0 .02 0 0", "apart"), ("Au Au 5 0 0 0 5 0 0 0 5 0 0 0 2.5 2.5 7", "outside"), ("Au Au 5 0 0 0 5 0 0 0 0 0 0 0 .5 .5 .5", "")], ids=["overlapping", "outside", "flat cell"])
def test_simulate_refuses_structures(rows, says, tmp_path, capsys):
    _, _, *numbers = rows.split()
    n = [" ".join(numbers[i:i+3]) for i in range(0, 15, 3)]
    (tmp_path/"POSCAR").write_text("\n".join(["made up", "1.0", *n[:3], "Au", "2", "direct", *n[3:], ""]))
    assert says in refused(capsys, "simulate", tmp_path/"POSCAR", "--out", tmp_path/"image.tif")

def test_simulate_needs_a_structure(tmp_path, capsys):
    assert "none.cif" in refused(capsys, "simulate", tmp_path/"none.cif", "--out", tmp_path/"image.tif")
    (tmp_path/"text.cif").write_text("no structure")
    assert "text.cif" in refused(capsys, "simulate", tmp_path/"text.cif", "--out", tmp_path/"image.tif")

# ---- predict: exit codes and what is printed

class Answer:
    "A prediction as the command line sees it."
    def __init__(self, atoms, explained):
        from types import SimpleNamespace
        self.candidates = [SimpleNamespace(atoms=atoms, residual=.02, confidence=.9, origins=("columns", "WSe2 (1)"), margin=m) for m in (0., .023, None)]
        self.explained, self.warnings = explained, ["Heights were not computed: a note."]
    def write(self, out):
        (Path(out)/"rank_1.cif").write_text("data_")
        return Path(out)

@pytest.mark.parametrize("explained, code", [(True, 0), (False, 3)])
def test_exit_codes(explained, code, mos2, tmp_path, capsys, monkeypatch):
    asked = []
    def predict(*args, **kwargs): asked.append((args, kwargs)); return Answer(mos2, explained)
    monkeypatch.setattr("microscopygpt.solve.predict", predict)
    assert main(["predict", "scan.tif", "--formula", "MoS2", "--pixel-size", "0.1", "--out", str(tmp_path/"new/out")]) == code
    out, err = capsys.readouterr()
    assert asked == [(("scan.tif", "MoS2", .1), dict(elements=None, prompt=None, k=5, propose=("columns", "model", "templates"), model="compact", heights="chgnet", relax=None, imaging=Imaging(), seed=0))]
    assert (tmp_path/"new/out/rank_1.cif").exists() and "1  MoS2  a 3.180" in out and str(tmp_path) in out
    lines = out.splitlines()
    assert [line.split("  ")[-2:] for line in lines[:3]] == [["by columns+templates", "lowest of its size"], ["by columns+templates", "+23 meV/atom"], ["by columns+templates", "heights guessed"]]
    assert lines[3] == "Note: Heights were not computed: a note."
    assert err.count("\n") == (not explained)

@pytest.mark.parametrize("options, propose, heights", [
    (["--propose", "model"], ("model",), "chgnet"), (["--propose", "templates, columns", "--heights", "none"], ("columns", "templates"), None),
    (["--heights", "sevennet"], ("columns", "model", "templates"), "sevennet")], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_who_proposes_and_what_computes_heights(options, propose, heights, mos2, tmp_path, monkeypatch):
    asked = []
    def told(*args, **kwargs): asked.append((kwargs["propose"], kwargs["heights"])); return Answer(mos2, True)
    monkeypatch.setattr("microscopygpt.solve.predict", told)
    monkeypatch.setattr("microscopygpt.evaluation.evaluate", told)
    monkeypatch.setattr("microscopygpt.cli._print_report", lambda report, out: 0)
    assert main(["predict", "scan.tif", *options, "--out", str(tmp_path)]) == main(["evaluate", "--source", "c2db", *options, "--out", str(tmp_path)]) == 0
    assert asked == [(propose, heights)]*2

def test_the_names_are_those_of_the_library():
    from microscopygpt import options
    from microscopygpt.potentials import POTENTIALS
    from microscopygpt.search import PROPOSERS
    assert options.PROPOSER_NAMES == PROPOSERS and options.POTENTIAL_NAMES == tuple(POTENTIALS)

# ---- predict, from end to end

needs_predict = pytest.mark.skipif(importlib.util.find_spec("microscopygpt.solve") is None, reason="microscopygpt.solve is not built")

@pytest.fixture(scope="module")
def picture(mos2):
    "A micrograph of MoS2, (256, 256) from 0 to 1, 0.1 Å/px."
    from microscopygpt.noise import render
    return render(mos2, "paper", seed=1)

def _write(path, array):
    from PIL import Image
    if path.suffix == ".npy": np.save(path, array)
    else: Image.fromarray(array).save(path)
    return path

def _bytes(picture): return (picture*255).round().astype(np.uint8)

def _text(path, _): path.write_text("this is no image, whatever its name says"); return path
def _truncated(path, p): _write(path, _bytes(p)); path.write_bytes(path.read_bytes()[:300]); return path
def _some_nan(path, p): p = p.copy(); p[40:44, 50:60] = np.nan; return _write(path, p)

REFUSED = {
    "missing file": ("none.tif", lambda path, p: path),
    "a folder": ("folder", lambda path, p: path.mkdir() or path),
    "not an image": ("text.tif", _text),
    "empty file": ("empty.png", lambda path, p: path.touch() or path),
    "truncated": ("cut.png", _truncated),
    "1 pixel": ("dot.png", lambda path, p: _write(path, np.array([[7]], np.uint8))),
    "constant": ("flat.png", lambda path, p: _write(path, np.full((256, 256), 80, np.uint8))),
    "all NaN": ("nan.npy", lambda path, p: _write(path, np.full((256, 256), np.nan, np.float32))),
    "infinite": ("inf.npy", lambda path, p: _write(path, np.full((256, 256), np.inf, np.float32))),
    "four dimensions": ("stack.npy", lambda path, p: _write(path, np.zeros((2, 3, 64, 64), np.float32))),
}
ANSWERED = {
    "RGB": ("rgb.png", lambda path, p: _write(path, np.stack([_bytes(p)]*3, -1))),
    "RGBA": ("rgba.png", lambda path, p: _write(path, np.stack([_bytes(p)]*3 + [np.full(p.shape, 255, np.uint8)], -1))),
    "16 bit": ("deep.tif", lambda path, p: _write(path, (p*65535).round().astype(np.uint16))),
    "float": ("float.npy", lambda path, p: _write(path, p)),
    "8000 x 8000": ("huge.png", lambda path, p: _write(path, np.pad(_bytes(p), 3872, mode="wrap"))),
}

QUICK = ("--propose", "model", "--heights", "none") # what follows is about images, files and exit codes

def predict(image, out, *options): return ["predict", str(image), "--out", str(out), "--k", "2", *QUICK, *options]
USUAL = ("--formula", "MoS2", "--pixel-size", "0.1")

def answered(out):
    "The best structure of a finished prediction."
    from microscopygpt.structure_files import read_crystal
    assert isinstance(json.loads((out/"prediction.json").read_text()), dict) and (out/"report.png").stat().st_size > 1000
    return read_crystal(out/"rank_1.cif")

@needs_predict
@pytest.mark.parametrize("case", REFUSED)
def test_unusable_image(case, picture, tmp_path, capsys):
    name, make = REFUSED[case]
    line = refused(capsys, *predict(make(tmp_path/name, picture), tmp_path/"out", *USUAL))
    assert name in line
    assert not list((tmp_path/"out").glob("*"))

@needs_predict
@pytest.mark.parametrize("case", ANSWERED)
def test_usable_image(case, picture, tmp_path):
    from microscopygpt.crystal import reduced_formula
    name, make = ANSWERED[case]
    assert main(predict(make(tmp_path/name, picture), tmp_path/"out", *USUAL)) == 0
    best = answered(tmp_path/"out")
    assert reduced_formula(best) == "MoS2"
    assert np.sort(best.lattice.abc)[:2] == pytest.approx([3.18, 3.18], rel=.01)

@needs_predict
@pytest.mark.parametrize("options", [
    ["--formula", "MoS2", "--pixel-size", "-0.1"], ["--formula", "MoS2", "--pixel-size", "0"],
    ["--formula", "MoS2", "--pixel-size", "nan"], ["--formula", "MoS2", "--pixel-size", "1e9"], ["--formula", "MoS2", "--pixel-size", "1e-9"],
    ["--formula", "Xx2", "--pixel-size", "0.1"], ["--formula", "hello world", "--pixel-size", "0.1"], ["--formula", "Mo0.5S", "--pixel-size", "0.1"],
    ["--model", "/no/such/model", *USUAL]], ids=" ".join)
def test_unusable_options(options, picture, tmp_path, capsys):
    refused(capsys, *predict(_write(tmp_path/"scan.png", _bytes(picture)), tmp_path/"out", *options))

@needs_predict
@pytest.mark.parametrize("case, options, codes", [
    ("some NaN", USUAL, {0, 2, 3}),
    ("no pixel size", ("--formula", "MoS2"), {0, 2, 3}),
    ("contradicting formula", ("--formula", "C", "--pixel-size", "0.1"), {2, 3})], ids=lambda v: v if isinstance(v, str) else "")
def test_doubtful_input(case, options, codes, picture, tmp_path, capsys):
    image = _some_nan(tmp_path/"nan.npy", picture) if case == "some NaN" else _write(tmp_path/"scan.png", _bytes(picture))
    code = main(predict(image, tmp_path/"out", *options))
    err = capsys.readouterr().err
    assert code in codes
    assert err.count("\n") == (0 if code == 0 else 1) and "Traceback" not in err
    if code != 2: answered(tmp_path/"out")

@needs_predict
def test_same_seed_same_answer(picture, tmp_path):
    image = _write(tmp_path/"scan.png", _bytes(picture))
    for out in ("one", "two"): assert main(predict(image, tmp_path/out, *USUAL, "--seed", "5")) in (0, 3)
    assert (tmp_path/"one/rank_1.cif").read_text() == (tmp_path/"two/rank_1.cif").read_text()

@needs_predict
def test_predict_as_it_is(tmp_path, capsys):
    "All proposers that need no database, heights computed."
    assert main(["predict", str(DEMO), "--formula", "MoSe2", "--propose", "columns,model", "--out", str(tmp_path)]) == 0
    facts = json.loads((tmp_path/"prediction.json").read_text())
    best, printed = facts["candidates"][0], capsys.readouterr().out.splitlines()[0]
    assert facts["proposers"] == ["columns", "model"] and facts["heights"] == "chgnet" and "chgnet" in facts["versions"]
    assert best["proposers"] == best["origins"] == ["columns", "model"] and best["votes"] > 0 and best["heights"] == "computed"
    assert best["margin_ev_per_atom"] == 0 and -10 < best["energy_ev_per_atom"] < -4
    assert printed.endswith("by columns+model  lowest of its size")

def test_lab_writes_its_notebook_once_and_starts_the_server(tmp_path, monkeypatch):
    pytest.importorskip("anywidget", reason="the app's packages are not installed: pip install 'microscopygpt[app]'")
    calls = []
    monkeypatch.setattr("subprocess.call", lambda command: calls.append(command[1:]) or 0)
    assert main(["lab", str(tmp_path/"work")]) == 0
    notebook = tmp_path/"work"/"explorer.ipynb"
    notebook.write_text(notebook.read_text().replace("Explorer()", "Explorer('graphene')"))
    assert main(["lab", str(tmp_path/"work"), "--voila"]) == 0
    assert calls == [["-m", "jupyterlab", str(notebook)], ["-m", "voila", str(notebook)]] and "graphene" in notebook.read_text()

def test_lab_without_the_app_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "anywidget" else find(name, *rest))
    assert "microscopygpt[app]" in refused(capsys, "lab")

def test_distortion_is_inferred_or_a_share(tmp_path, capsys, mos2, monkeypatch):
    assert "0 to 0.2" in refused(capsys, "predict", str(DEMO), "--formula", "MoSe2", "--distortion", "3", "--out", str(tmp_path))
    assert main(["predict", str(DEMO), "--formula", "MoSe2", "--distortion", "0.03", "--k", "1", *QUICK, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path/"prediction.json").read_text())["imaging"]["distortion"] == .03
    asked = []
    monkeypatch.setattr("microscopygpt.solve.predict", lambda *args, imaging, **kw: asked.append(imaging.distortion) or Answer(mos2, True))
    for options in ([], ["--distortion", "inferred"], ["--distortion", "0"]): main(["predict", str(DEMO), "--formula", "MoSe2", *options, "--out", str(tmp_path)])
    assert asked == [None, None, 0]

def test_elements_in_place_of_a_formula(tmp_path, capsys, mos2, monkeypatch):
    assert "not both" in refused(capsys, "predict", str(DEMO), "--formula", "MoSe2", "--elements", "Mo,Se", "--out", str(tmp_path))
    assert "not a list of elements" in refused(capsys, "predict", str(DEMO), "--elements", "Mo,Xx", "--out", str(tmp_path))
    assert main(["predict", str(DEMO), "--elements", "Mo,Se", "--k", "1", "--propose", "columns", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path/"prediction.json").read_text())["formula"] == "MoSe2"
    assert "MoSe2 is the most probable" in capsys.readouterr().out

def test_an_image_without_a_pixel_size_is_answered(mos2, picture, tmp_path, capsys):
    image = _write(tmp_path/"scan.png", _bytes(picture))
    line = refused(capsys, *predict(image, tmp_path/"out", "--formula", "MoS2")) # no potential, no scale
    assert "no pixel size" in line and "--heights chgnet" in line and "heights=" not in line
    assert main(["predict", str(image), "--formula", "MoS2", "--k", "1", "--propose", "columns", "--out", str(tmp_path/"out")]) == 0
    scan = json.loads((tmp_path/"out"/"prediction.json").read_text())["scan"]
    assert scan["pixel_size_told"] is None and scan["pixel_size_inferred"] == pytest.approx(.1, rel=.03)
    assert "which is inferred" in capsys.readouterr().out
