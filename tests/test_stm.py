"Tunnelling micrographs: the density where the tip flies, seen like any other picture."
import matplotlib
import numpy as np, pytest
from jarvis.analysis.stm.tersoff_hamann import TersoffHamannSTM
from microscopygpt.crystal import MicroscopyGPTError, Slab, cell_from_lengths, from_slab
from microscopygpt.stm import StmError, stm_image

matplotlib.use("Agg")


def write(path, atoms, density):
    "A density (n1, n2, n3) in VASP's format, five to a line"
    rows = [" ".join(f"{v:.10f}" for v in row) for m in (atoms.lattice_mat, atoms.frac_coords) for row in m]
    text = ["made up", "1.0", *rows[:3], " ".join(atoms.elements), " ".join("1" for _ in atoms.elements), "Direct", *rows[3:], "", " ".join(map(str, density.shape))]
    path.write_text("\n".join(text + [" ".join(f"{v:.10E}" for v in row) for row in density.ravel(order="F").reshape(-1, 5)]) + "\n")
    return path


@pytest.fixture
def crystal(): return from_slab(Slab(cell_from_lengths(3., 4., 100), np.array([[0, 0], [.4, .3]]), np.array([0., .8]), np.array([5, 7])))


@pytest.fixture
def density():
    i, j, k = np.meshgrid(*[np.arange(n)/n for n in (20, 30, 50)], indexing="ij")
    return (2 + np.cos(2*np.pi*i) + .5*np.sin(2*np.pi*(i+2*j)))*(2 + np.cos(2*np.pi*(k-.5)))


@pytest.mark.parametrize("rotation,shift", [(0, (0, 0)), (33, (1.2, -3.4))])
def test_equals_the_density_at_the_tip(tmp_path, crystal, density, rotation, shift):
    path, t = write(tmp_path/"PARCHG", crystal, density), np.radians(rotation)
    image = stm_image(path, 1.5, .07, (40, 60), rotation, shift)
    turn = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
    y, x = np.indices((40, 60))*.07
    f = (np.stack([x, y], -1) - shift) @ np.linalg.inv(np.array(crystal.lattice_mat)[:2, :2] @ turn)
    z = max(crystal.frac_coords[:, 2]) + 1.5/crystal.lattice_mat[2][2]
    wanted = (2 + np.cos(2*np.pi*f[..., 0]) + .5*np.sin(2*np.pi*(f[..., 0]+2*f[..., 1])))*(2 + np.cos(2*np.pi*(z-.5)))
    scale = image.mean()/wanted.mean()
    assert abs(image/scale - wanted).max() < .005*wanted.max()


def test_equals_the_plane_that_jarvis_cuts(tmp_path, crystal, density):
    path = write(tmp_path/"PARCHG", crystal, density)
    theirs = TersoffHamannSTM(chg_name=str(path), min_size=10, zcut=40, use_interpolated=False)
    plane, c = theirs.chg[:, :, 40]/theirs.atoms.volume, np.linalg.norm(crystal.lattice_mat[2])
    height = (40/50 - max(crystal.frac_coords[:, 2]))*c
    along_a = stm_image(path, height, 3./20, (1, 20))[0]
    assert np.allclose(along_a, plane[:, 0], rtol=1e-4)


@pytest.mark.parametrize("what", ["missing", "empty", "text", "cut", "flat"])
def test_refused(tmp_path, crystal, density, what):
    path = tmp_path/"PARCHG"
    if what == "empty": path.write_text("")
    if what == "text": path.write_text("no density\n"*20)
    if what == "cut": path.write_text(write(tmp_path/"whole", crystal, density).read_text()[:20000])
    if what == "flat": write(path, crystal, np.ones((20, 30, 50)))
    with pytest.raises(StmError, match="PARCHG"): stm_image(path)


@pytest.mark.parametrize("how", [dict(height=30), dict(height=-1), dict(pixel_size=0), dict(size=0), dict(rotation="north")])
def test_bad_numbers(tmp_path, crystal, density, how):
    with pytest.raises(MicroscopyGPTError): stm_image(write(tmp_path/"PARCHG", crystal, density), **how)
