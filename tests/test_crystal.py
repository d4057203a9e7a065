"What a crystal's description must not depend on, and files and formulas that must be refused by name."
import random
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from jarvis.core.atoms import Atoms

from microscopygpt.crystal import (BRAVAIS, CrystalError, FormulaError, Slab, bravais_2d, canonical,
                                   cell_from_lengths, cell_lengths, equivalent_bases, from_slab, parse_formula,
                                   reduce_cell, reduced_formula, space_group, standardize, to_slab)
from microscopygpt.compare import compare, superpose
from microscopygpt.structure_files import read_crystal, write_crystal

quick = settings(max_examples=40, deadline=None, database=None)
fuzz = settings(max_examples=300, deadline=None, database=None)
seeds = st.integers(0, 2**31)
MOS2 = from_slab(Slab(cell_from_lengths(3.18, 3.18, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16])))
SHAPES = {"hexagonal": (1, 120), "square": (1, 90), "rectangular": (1.4, 90), "rhombic": (1, 103), "oblique": (1.3, 97)}


def centred(slab): return slab._replace(z=slab.z - (slab.z.max() + slab.z.min())/2)


@st.composite
def slabs(draw, grid=False):
    "A slab of two to five atoms on any of the five lattices, in general positions or on the grid that `canonical` compares by"
    rng, (ratio, gamma) = np.random.default_rng(draw(seeds)), SHAPES[draw(st.sampled_from(list(SHAPES)))]
    n, a = rng.integers(2, 6), rng.uniform(2.5, 6)
    frac, z = (rng.integers(0, 24, (n, 2))/24, .6*rng.integers(-4, 5, n)) if grid else (rng.random((n, 2)), rng.uniform(-2.5, 2.5, n))
    return centred(Slab(cell_from_lengths(a, a*ratio, gamma), frac, z, rng.choice([6, 16, 22, 42, 52], n)))


@st.composite
def unimodulars(draw):
    "A product of shears and swaps: any other basis of the same lattice"
    M = np.eye(2, dtype=int)
    for k in draw(st.lists(st.integers(-3, 3), max_size=4)): M = np.array([[k, 1], [1, 0]])@M
    return M


def shift(slab, by): return slab._replace(frac=(slab.frac + by) % 1)
def flip(slab): return slab._replace(z=-slab.z)
def mirror(slab): return slab._replace(cell=slab.cell*[-1, 1])
def reorder(slab, seed):
    i = np.random.default_rng(seed).permutation(len(slab.z))
    return Slab(slab.cell, slab.frac[i], slab.z[i], slab.numbers[i])
def turn(slab, degrees):
    t = np.radians(degrees)
    return slab._replace(cell=slab.cell@[[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
def rebase(slab, M): return slab._replace(cell=M@slab.cell, frac=(slab.frac@np.linalg.inv(M)) % 1)


def apart(slab):
    "The shortest distance of two atoms, images included (Å)."
    from ase import Atoms as Cell
    from ase.neighborlist import neighbor_list
    cell = np.zeros((3, 3))
    cell[:2, :2], cell[2, 2] = slab.cell, 30
    atoms = Cell(slab.numbers, np.c_[slab.frac@slab.cell, slab.z], cell=cell, pbc=[True, True, False])
    return neighbor_list("d", atoms, 3.).min(initial=3.)


def as_atoms(slab, vacuum=15., axis=2, supercell=(1, 1)):
    "The same slab as somebody else would write it: another vacuum, c along another axis, a supercell, off the middle"
    lattice = np.zeros((3, 3)); lattice[:2, :2] = slab.cell; lattice[2, 2] = np.ptp(slab.z) + vacuum
    order = np.roll([0, 1, 2], axis - 2)
    atoms = Atoms(lattice_mat=lattice, coords=np.c_[slab.frac, slab.z/lattice[2, 2] + .9], elements=from_slab(slab).elements, cartesian=False).make_supercell_matrix([*supercell, 1])
    return Atoms(lattice_mat=np.array(atoms.lattice_mat)[np.argsort(order)], coords=np.array(atoms.frac_coords)[:, np.argsort(order)] % 1, elements=atoms.elements, cartesian=False)


def assert_same(p, q, tol=1e-4):
    "Two slabs with the same arrays, in this order"
    assert list(p.numbers) == list(q.numbers)
    assert np.allclose(cell_lengths(p.cell), cell_lengths(q.cell), atol=tol) and np.allclose(p.z, q.z, atol=tol)
    d = p.frac - q.frac
    assert abs(d - np.round(d)).max() < tol


lengths = st.floats(1.5, 30)


@fuzz
@given(lengths, lengths, st.floats(20, 160), unimodulars())
def test_reduced_cell(a, b, gamma, M):
    cell = M@cell_from_lengths(a, b, gamma)
    reduced, H = reduce_cell(cell)
    a, b, gamma = cell_lengths(reduced)
    assert a <= b + 1e-6 and 90 - 1e-6 <= gamma <= 120.01
    assert np.allclose(H@cell, reduced, atol=1e-6) and round(abs(np.linalg.det(H))) == 1
    again, H = reduce_cell(reduced)
    assert np.allclose(again, reduced) and np.allclose(np.abs(H), np.eye(2))


@fuzz
@given(lengths, lengths, st.floats(20, 160), unimodulars(), st.floats(-180, 180))
def test_reduced_lengths_do_not_depend_on_the_basis(a, b, gamma, M, angle):
    slab = Slab(cell_from_lengths(a, b, gamma), np.zeros((1, 2)), np.zeros(1), np.array([6]))
    want = cell_lengths(reduce_cell(slab.cell)[0])
    for other in (turn(slab, angle), mirror(slab), rebase(slab, M)): assert np.allclose(cell_lengths(reduce_cell(other.cell)[0]), want, atol=.02)


@pytest.mark.parametrize("cell", [np.zeros((2, 2)), [[3, 0], [6, 0]], [[np.nan, 0], [0, 3]], [[np.inf, 0], [0, 3]], [[3, 0], [3, 1e-3]]])
def test_degenerate_cells(cell):
    with pytest.raises(CrystalError): reduce_cell(cell)
    with pytest.raises(CrystalError): bravais_2d(np.array(cell))


@quick
@given(st.sampled_from(list(SHAPES)), st.floats(2.5, 8), unimodulars(), st.floats(-180, 180))
def test_bravais_does_not_depend_on_the_basis(shape, a, M, angle):
    ratio, gamma = SHAPES[shape]
    slab = Slab(cell_from_lengths(a, a*ratio, gamma), np.zeros((1, 2)), np.zeros(1), np.array([6]))
    for other in (slab, turn(slab, angle), mirror(slab), rebase(slab, M)): assert BRAVAIS[bravais_2d(other.cell)] == shape


@quick
@given(st.floats(2.5, 5), st.floats(1.05, 3), unimodulars())
def test_centred_rectangles_are_rhombic(a, ratio, M):
    assume(abs(ratio - 3**.5) > .05 and abs(ratio - 1) > .05)
    assert BRAVAIS[bravais_2d(M@(np.array([[a, a*ratio], [-a, a*ratio]])/2*1.5))] == "rhombic"


@pytest.mark.parametrize("shape,count", [("hexagonal", 12), ("square", 8), ("rectangular", 4), ("rhombic", 4), ("oblique", 2)])
def test_equivalent_bases_are_the_lattices_group(shape, count):
    ratio, gamma = SHAPES[shape]
    cell = cell_from_lengths(3, 3*ratio, gamma)
    bases = equivalent_bases(cell)
    group = {tuple(M.ravel()) for M in bases}
    assert len(group) == count
    for M in bases:
        assert np.allclose(M@cell@cell.T@M.T, cell@cell.T)
        assert tuple(np.round(np.linalg.inv(M)).astype(int).ravel()) in group
        assert all(tuple((M@N).ravel()) in group for N in bases)


@quick
@given(slabs(grid=True), st.tuples(st.floats(0, 1), st.floats(0, 1)), seeds, st.floats(-180, 180), st.data())
def test_canonical_does_not_depend_on_the_description(slab, by, seed, angle, data):
    want, M = canonical(slab), data.draw(st.sampled_from(list(equivalent_bases(slab.cell))))
    for other in (shift(slab, by), flip(slab), mirror(slab), reorder(slab, seed), turn(slab, angle), rebase(slab, M), flip(reorder(shift(rebase(slab, M), by), seed)), want):
        assert_same(canonical(other), want)


@quick
@given(slabs())
def test_canonical_is_the_same_crystal(slab):
    want = canonical(slab)
    assert abs(want.frac - np.round(want.frac)).max(1).min() < 1e-9 and sorted(want.numbers) == sorted(slab.numbers)
    assert np.allclose(cell_lengths(want.cell), cell_lengths(slab.cell), rtol=.01, atol=.6)
    assume(compare(from_slab(slab), from_slab(slab)).tight)
    assert compare(from_slab(slab), from_slab(want)).tight


@quick
@given(slabs(grid=True), st.tuples(st.floats(0, 1), st.floats(0, 1)), unimodulars(), st.floats(10, 25), st.sampled_from([0, 1, 2]))
def test_to_slab_does_not_depend_on_the_setting(slab, by, M, vacuum, axis):
    lattice = M@slab.cell
    assume(np.linalg.norm(lattice, axis=1).max() < 60)
    want = canonical(to_slab(from_slab(slab)))
    assert_same(canonical(to_slab(as_atoms(shift(rebase(slab, M), by), vacuum, axis))), want, 1e-3)


@quick
@given(slabs())
def test_slab_and_back(slab):
    assert_same(to_slab(from_slab(slab)), slab)
    once = standardize(from_slab(slab))
    assert_same(to_slab(standardize(once)), to_slab(once))


@quick
@given(slabs(), st.integers(1, 3), st.integers(1, 2), st.tuples(st.floats(0, 1), st.floats(0, 1)), st.floats(10, 25), st.sampled_from([0, 1, 2]))
def test_standardize_finds_the_primitive_cell(slab, i, j, by, vacuum, axis):
    distance = [np.linalg.norm(((slab.frac[p] - slab.frac[q] + .5) % 1 - .5)@slab.cell) for p in range(len(slab.z)) for q in range(p)]
    assume(min(distance) > .5)
    big = as_atoms(shift(slab, by), vacuum, axis, (i, j))
    found = to_slab(standardize(big))
    assert len(found.z) == len(slab.z) and np.allclose(cell_lengths(found.cell), cell_lengths(slab.cell), atol=1e-2)
    assert compare(from_slab(slab), big).rmsd < 1e-2
    assert space_group(standardize(big)) == space_group(from_slab(slab))


@quick
@given(st.sampled_from(["2H", "1T", "graphene", "BN", "square"]), st.tuples(st.floats(0, 1), st.floats(0, 1)), seeds, st.floats(10, 25), st.integers(1, 3), st.integers(1, 3))
def test_space_group_of_known_crystals(name, by, seed, vacuum, i, j):
    hexagon, third = cell_from_lengths(3.2, 3.2, 120), [[0, 0], [1/3, 2/3]]
    slab, number = {"2H": (to_slab(MOS2), 187), "1T": (Slab(hexagon, np.array([*third, [2/3, 1/3]]), np.array([0, 1.5, -1.5]), np.array([42, 16, 16])), 164),
                    "graphene": (Slab(cell_from_lengths(2.46, 2.46, 120), np.array(third), np.zeros(2), np.array([6, 6])), 191), "BN": (Slab(hexagon, np.array(third), np.zeros(2), np.array([5, 7])), 187),
                    "square": (Slab(cell_from_lengths(4, 4, 90), np.array([[0, 0], [.5, .5]]), np.zeros(2), np.array([5, 7])), 123)}[name]
    for other in (slab, shift(slab, by), flip(slab), mirror(slab), reorder(slab, seed)):
        assert space_group(from_slab(other)) == number
        assert space_group(standardize(as_atoms(other, vacuum, supercell=(i, j)))) == number


def atoms_of(lattice=np.diag([3., 3., 15.]), coords=((0, 0, .5),), elements=("C",)): return Atoms(lattice_mat=lattice, coords=list(coords), elements=list(elements), cartesian=False)


@pytest.mark.parametrize("atoms", [atoms_of(coords=[[0, 0, np.nan]]), atoms_of(coords=[[np.inf, 0, 0]]), atoms_of(np.zeros((3, 3))), atoms_of(np.full((3, 3), np.nan)), atoms_of(elements=["Xx"]),
                                   atoms_of(np.array([[3., 0, 0], [6, 0, 0], [0, 0, 15]]))])
def test_unusable_structures(atoms, tmp_path):
    for f in (to_slab, standardize, space_group, bravais_2d, *(lambda a, n=n: write_crystal(a, tmp_path/n) for n in ("a.cif", "POSCAR", "a.xyz"))):
        with pytest.raises(CrystalError): f(atoms)


def test_atoms_on_top_of_each_other(tmp_path):
    atoms = atoms_of(coords=[[0, 0, .5], [0, 0, .5], [.5, .5, .4]], elements=["C", "C", "B"])
    assert space_group(atoms) == 0 and standardize(atoms).num_atoms == 3
    for name in ("POSCAR", "a.xyz"): assert read_crystal(write_crystal(atoms, tmp_path/name)).num_atoms == 3
    with pytest.raises(CrystalError, match="on top of each other"): read_crystal(write_crystal(atoms, tmp_path/"a.cif"))


@quick
@given(st.text(max_size=30))
def test_formula_of_any_text(text): check_formula(text)


@fuzz
@given(st.lists(st.sampled_from(["Mo", "S", "C", "Co", "D", "o", "X", "2", "3", "0", "12", "(", ")", "[", "]", ".", " ", "₂", "²", "-", "e", "\n", "9"*400, "(("*50]), max_size=9).map("".join))
def test_formula_of_symbols(text): check_formula(text)


def check_formula(text):
    "A reduced composition or a `FormulaError` with one line"
    try: counts = parse_formula(text)
    except FormulaError as e: assert "\n" not in str(e) and len(str(e)) < 250
    else:
        assert counts and all(type(n) is int and n > 0 for n in counts.values()) and np.gcd.reduce(np.array(list(counts.values()), object)) == 1
        if max(counts.values()) < 1e6: assert parse_formula(reduced_formula(text)) == counts


@quick
@given(st.dictionaries(st.sampled_from(["Mo", "S", "C", "Co", "O", "Cs", "Te"]), st.integers(1, 20), min_size=1), seeds)
def test_formula_spellings(counts, seed):
    names = [f"{e}{n}" for e, n in counts.items()]; random.Random(seed).shuffle(names)
    divisor = np.gcd.reduce(list(counts.values()))
    want = {e: n//divisor for e, n in counts.items()}
    sub = "".join(names).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    for text in ("".join(names), " ".join(names), sub, f"({''.join(names)})3", "".join(e*n for e, n in counts.items())): assert parse_formula(text) == want


NAMES = ["a.cif", "POSCAR", "a.vasp", "a.extxyz"]


@settings(max_examples=15, deadline=None, database=None)
@given(slab=slabs())
def test_files_keep_the_crystal(slab, tmp_path_factory):
    assume(apart(slab) > .7) # Å: a reader takes closer atoms of different elements for one site
    folder, atoms = tmp_path_factory.mktemp("files"), from_slab(slab)
    for name in NAMES: assert compare(atoms, read_crystal(write_crystal(atoms, folder/name))).rmsd < .02


def check_file(path, content):
    "A usable structure or a `CrystalError` with one line"
    path.write_bytes(content)
    try: atoms = read_crystal(path)
    except CrystalError as e: assert "\n" not in str(e) and path.name in str(e) and len(str(e)) < 300
    else: return standardize_or_refuse(atoms)


def standardize_or_refuse(atoms):
    try: return standardize(atoms)
    except CrystalError: return None


GARBAGE = [b"", b"\n\n", b"\x00"*100, b"garbage "*100, bytes(range(256))*20, b"9"*1000, b"1\n"*50, b"nan nan nan\n"*20, b"\xe9"*9, b"99999999999\n\nC 0 0 0\n", b"-1\n"*9, b"a\n1\n3 0 0\n0 3 0\n0 0 9\nC\n999999999\nDirect\n0 0 0\n",
           b"a\n1\n3 0 0\n0 3 0\n0 0 9\nC\n0\nDirect\n0 0 0\n", b"a\n1\n3 0 0\n0 3 0\n0 0 9\nXq\n1\nDirect\n0 0 0\n", b"a\n1\n0 0 0\n0 3 0\n0 0 9\nC\n1\nDirect\n0 0 0\n", b"a\n1\n3 0 0\n0 3 0\n0 0 9\nC\n1\nDirect\nnan 0 0\n",
           b"1\nno lattice\nC 0 0 0\n", b'1\nLattice="3 0 0 0 3 0 0 0 nan"\nC 0 0 0\n', b"data_a\nloop_\n", b"data_a\n_cell_length_a 3\n"]


@pytest.mark.parametrize("name", NAMES)
def test_garbage_is_refused(name, tmp_path):
    for content in GARBAGE[:16] if "cif" in name or "xyz" in name else GARBAGE[:10] + GARBAGE[11:]:
        (tmp_path/name).write_bytes(content)
        with pytest.raises(CrystalError, match=name): read_crystal(tmp_path/name)
    for content in GARBAGE: check_file(tmp_path/name, content)


@pytest.mark.parametrize("name", NAMES)
def test_cut_files(name, tmp_path):
    path = write_crystal(MOS2, tmp_path/name)
    content = path.read_bytes()
    for stop in range(0, len(content), 3): check_file(path, content[:stop])
    lines = content.decode().rstrip().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    if "cif" not in name:
        with pytest.raises(CrystalError): read_crystal(path)
        path.write_text("".join(lines[:-1]) + lines[-1][:12])
        with pytest.raises(CrystalError): read_crystal(path)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(name, tmp_path):
    path, rng = write_crystal(MOS2, tmp_path/name), random.Random(0)
    content = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 5)): damaged[rng.randrange(len(damaged))] = rng.choice(b"0123456789 .-\nABCxyz\xff\x00")
        check_file(path, bytes(damaged))


def test_other_file_errors(tmp_path):
    for path in (tmp_path/"a.doc", tmp_path/"missing.cif", tmp_path, tmp_path/"no"/"POSCAR"):
        with pytest.raises(CrystalError): read_crystal(path)
        with pytest.raises(CrystalError): write_crystal(MOS2, path if path.name != "missing.cif" else tmp_path/"no"/"a.cif")
    (tmp_path/"b.cif").mkdir()
    with pytest.raises(CrystalError): read_crystal(tmp_path/"b.cif")

@pytest.mark.parametrize("seed", range(6))
def test_superposition_finds_every_atom_whatever_the_description(seed):
    "Other axes, origin, side, order and vacuum; one atom moved by a known amount."
    rng = np.random.default_rng(seed)
    slab = Slab(cell_from_lengths(3.3, 4.6, 90), np.array([[0, .09], [.5, .41], [0, .91], [.5, .59]]), np.array([1.05, 1.05, -1.05, -1.05]), np.full(4, 15))
    moved = slab.frac.copy(); moved[2] += [.02, .03]
    order, flip, shift = rng.permutation(4), rng.choice([-1, 1]), rng.random(2)
    H = np.array([[1, 0], [rng.integers(-1, 2), 1]])
    other = Slab(H@slab.cell, ((moved + shift)@np.linalg.inv(H) % 1)[order], flip*slab.z[order], slab.numbers)
    both = superpose(from_slab(slab), from_slab(other, vacuum=rng.uniform(12, 30)))
    d = np.linalg.norm(both.displacements, axis=1)
    step = np.hypot(.02*3.3, .03*4.6)
    assert np.sort(d)[-1] == pytest.approx(.75*step, abs=1e-3) and np.sort(d)[:3] == pytest.approx(.25*step, abs=1e-3)
    assert both.rmsd == pytest.approx(np.sqrt(.1875)*step, abs=1e-3)
    assert np.allclose((both.other.frac - both.reference.frac)@both.reference.cell, both.displacements[:, :2], atol=1e-6)

def test_superposition_of_a_small_cell_over_a_large_one():
    small = from_slab(Slab(cell_from_lengths(3.18, 3.18, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16])))
    large = to_slab(small.make_supercell_matrix([2, 2, 1]))
    large.z[np.argmax(large.z)] += .1 # no longer a smaller cell
    both = superpose(from_slab(large), small)
    assert len(both.displacements) == 12 and both.rmsd < .1
    with pytest.raises(CrystalError, match="no common description"): superpose(small, from_slab(large))

def test_what_cannot_be_superposed_says_why():
    graphene = from_slab(Slab(cell_from_lengths(2.46, 2.46, 120), np.array([[1/3, 2/3], [2/3, 1/3]]), np.zeros(2), np.array([6, 6])))
    square = from_slab(Slab(cell_from_lengths(4, 4, 90), np.array([[0, 0], [.5, .5]]), np.array([0, .5]), np.array([6, 6])))
    with pytest.raises(CrystalError, match="one formula"): superpose(graphene, from_slab(to_slab(graphene)._replace(numbers=np.array([5, 7]))))
    with pytest.raises(CrystalError, match="no common description"): superpose(graphene, square)

@pytest.mark.parametrize("mode", ["false", "true"])
def test_atoms_on_top_of_each_other_have_no_symmetry_whichever_way_spglib_says_so(mode, monkeypatch):
    "ASE sets this variable for the whole process and leaves it so."
    monkeypatch.setenv("SPGLIB_OLD_ERROR_HANDLING", mode)
    slab = Slab(3*np.eye(2), np.array([[0, 0], [1e-9, 0], [.5, .5]]), np.zeros(3), np.array([6, 6, 7]))
    atoms = from_slab(slab)
    assert space_group(atoms) == 0 and standardize(atoms).num_atoms == 3

def test_pymatgen_finds_no_fault_in_what_is_written(tmp_path):
    from pymatgen.io.cif import CifParser
    path = write_crystal(MOS2, tmp_path/"a.cif")
    def fault():
        parser = CifParser(path, check_cif=True)
        [structure] = parser.parse_structures(primitive=False, on_error="ignore")
        return parser.check(structure)
    assert fault() is None
    path.write_text(path.read_text().replace("Mo1 S2", "Mo2 S2"))
    assert "Mo" in fault() # a missing atom
