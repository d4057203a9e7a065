"The explorer, driven from Python: what the browser sends, and what it is shown."
import html, re
import numpy as np, pytest
pytest.importorskip("anywidget", reason="the app's packages are not installed: pip install 'microscopygpt[app]'")
from microscopygpt.crystal import cell_from_lengths, monolayer, to_slab
from microscopygpt.compare import compare
from microscopygpt.structure_files import read_crystal, write_crystal
from microscopygpt.chat import parse_answer
from microscopygpt.explore import EXAMPLES, Explorer, crystal_bytes, displacements_html, example
from microscopygpt.micrograph import Micrograph, write_micrograph
from microscopygpt.widgets import CrystalView, Pad, Picker, Ranking, cells_across, complaint_html, patch_of_cells

MOSE2 = parse_answer(EXAMPLES["MoSe₂, 2H"])

@pytest.fixture(scope="module")
def answered():
    "An explorer with an answer; tests that change it make their own."
    explorer = Explorer("MoSe₂, 2H")
    explorer.ask()
    return explorer

def quick(explorer):
    "Only the model proposes and heights are guessed: for tests whose point is another."
    explorer._question["by_columns"].value, explorer._question["heights"].value = False, "none"
    return explorer

def said(explorer): return html.unescape(re.sub("<[^>]+>", "", explorer.message.value))

def upload(explorer, name, data, picker=None, piece=1000):
    picker = picker or explorer._image["picker"]
    for at in range(0, max(len(data), 1), piece): picker._piece(None, dict(id="x", name=name, size=len(data), at=at), [memoryview(data[at:at+piece])])

@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000])
def test_a_file_arrives_whole_whatever_its_size(size):
    arrived, data = [], np.random.default_rng(0).bytes(size)
    picker = Picker(lambda *file: arrived.append(file))
    upload(None, "../../etc/a.tif", data, picker)
    assert arrived == [("a.tif", data)] and not picker._parts

def test_a_piece_out_of_turn_ends_the_transfer():
    arrived, picker = [], Picker(lambda *file: arrived.append(file))
    picker._piece(None, dict(id="x", name="a", size=10, at=0), [b"12345"])
    picker._piece(None, dict(id="x", name="a", size=10, at=7), [b"890"])
    assert not arrived and not picker._parts

def test_an_uploaded_file_is_shown_with_its_scale(tmp_path):
    explorer, picture = Explorer(), example("graphene")[0]
    upload(explorer, "scan.tif", write_micrograph(picture, tmp_path/"scan.tif").read_bytes())
    assert explorer._image["pixel_size"].value == "0.1" and explorer._image["pad"].shape == [256, 256] and explorer._image["pad"].image[1:4] == b"PNG"
    assert "a = 2.46" in explorer._image["lattice"].value and said(explorer) == ""

@pytest.mark.parametrize("name, data, says", [("empty.tif", b"", "empty"), ("notes.png", b"not a picture at all", "not an image"), ("cut.png", None, "truncated"), ("a.docx", b"PK\3\4 docx", "not an image")])
def test_a_broken_upload_is_a_message_and_loses_nothing(tmp_path, name, data, says):
    explorer = Explorer("graphene")
    if data is None: data = write_micrograph(example("graphene")[0], tmp_path/"x.png").read_bytes()[:3000]
    upload(explorer, name, data)
    assert says in said(explorer) and name in said(explorer) and "Traceback" not in said(explorer)
    assert explorer.micrograph.source.startswith("graphene")

@pytest.mark.parametrize("field, value, says", [("formula", "", "formula is empty"), ("formula", "Xx2", "not a chemical element"), ("pixel_size", "abc", "not a number"), ("pixel_size", "50", "from 0.005 to 2"), ("other", " ", "its folder"), ("other", "no/such/model", "No model")])
def test_bad_fields_are_a_message(field, value, says):
    explorer = Explorer("graphene")
    if field == "other": explorer._question["model"].value = "other"
    (explorer._image if field == "pixel_size" else explorer._question)[field].value = value
    explorer.ask_button.click()
    assert says in said(explorer), said(explorer)
    assert explorer.prediction is None and not explorer.ask_button.disabled

def test_an_empty_pixel_size_is_the_file_s():
    explorer = Explorer("graphene")
    explorer._image["pixel_size"].value = "0.12"; explorer._image["pixel_size"].value = ""
    assert explorer._image["pixel_size"].value == "0.1"

def test_a_scale_that_nobody_knows_is_inferred_where_a_potential_can():
    bare = Explorer(Micrograph(example("graphene")[0].data), "C")
    assert "will be inferred" in bare._image["lattice"].value
    bare._question["by_model"].value = False
    bare.ask_button.click()
    assert said(bare) == "" and bare.prediction.pixel_size_inferred == pytest.approx(.1, rel=.03)
    assert "which is inferred" in bare._answer["verdict"].value
    bare._question["heights"].value = "none"
    bare.ask_button.click()
    assert "no pixel size" in said(bare)

def test_distortion_is_inferred_unless_a_limit_is_set():
    explorer = Explorer("graphene"); part = explorer._question
    assert explorer.imaging().distortion is None and part["distortion"].disabled
    part["inferred"].value, part["distortion"].value = False, 3
    assert explorer.imaging().distortion == .03 and not part["distortion"].disabled

def test_boxes_and_heights_are_options_of_predict():
    explorer = Explorer("graphene"); part = explorer._question
    asked = lambda: (explorer.question()["propose"], explorer.question()["heights"])
    assert asked() == (("columns", "model"), "chgnet")
    part["by_templates"].value, part["heights"].value = True, "none"
    assert asked() == (("columns", "model", "templates"), None)
    part["by_columns"].value = part["by_templates"].value = part["by_model"].value = False
    explorer.ask_button.click()
    assert "tick columns" in said(explorer) and not explorer.ask_button.disabled
    part["model"].value, part["by_columns"].value = "other", True
    assert asked() == (("columns",), None) and explorer.question()["model"] is None

def test_guessed_heights_are_called_guessed():
    explorer = quick(Explorer("MoSe₂, 2H"))
    explorer.ask()
    assert "its heights are guessed" in explorer._answer["verdict"].value and "computed" not in explorer._answer["verdict"].value
    assert {row[7] for row in explorer._answer["ranking"].rows} == {"model"}

@pytest.mark.parametrize("word", ["solving the columns", "relaxing heights"])
def test_cancel_in_the_middle(word, monkeypatch):
    explorer, heard = Explorer("MoSe₂, 2H"), []
    def told(done, what):
        heard.append((done, what))
        if word in what: explorer.cancel_button.click()
    monkeypatch.setattr(explorer.work, "report", told)
    explorer.ask_button.click()
    assert "Cancelled" in explorer.work.doing.value and explorer.prediction is None and not explorer.ask_button.disabled and explorer.cancel_button.disabled
    shares = [done for done, _ in heard]
    assert word in heard[-1][1] and shares == sorted(shares) and shares[-1] < .7 and said(explorer) == ""

def test_predict_without_a_micrograph_says_so():
    explorer = Explorer(); explorer._question["formula"].value = "MoS2"
    explorer.ask_button.click()
    assert "no micrograph yet" in said(explorer)

def test_a_bug_is_called_a_bug_and_kept(monkeypatch):
    explorer = Explorer("graphene")
    def broken(*args, **kwargs): raise KeyError("oops")
    monkeypatch.setattr("microscopygpt.explore.predict", broken)
    explorer.ask_button.click()
    assert "should not" in said(explorer) and isinstance(explorer.error, KeyError)

def test_a_frame_that_comes_late_does_not_wipe_what_another_part_said():
    explorer = Explorer("graphene"); explorer._question["formula"].value = "Xx2"
    explorer.ask_button.click()
    explorer._image["pad"].box = [10, 20, 200, 210]
    assert "not a chemical element" in said(explorer)
    explorer._question["formula"].value = "C"; explorer._image["pixel_size"].value = "0.11"
    assert said(explorer) == ""

def test_the_answer_is_shown(answered):
    part = answered._answer
    assert len(part["ranking"].rows) == len(answered.prediction.candidates) and part["ranking"].rows[0][0].startswith("3.32")
    assert dict(zip(part["ranking"].columns, part["ranking"].rows[0]))["proposed by"] == "columns, model"
    assert "heights were computed with chgnet" in part["verdict"].value
    assert "data:image/png" in part["picture"].value and "RMSD 0.0" in part["distance"].value
    assert part["against"].value == -1 and part["against"].options[0][0] == "the true structure"

def test_another_rank_changes_everything(answered):
    part = answered._answer
    before = {name: part[name].value for name in ("picture", "saved", "distance")}
    part["ranking"].chosen = 1
    assert all(part[name].value != value for name, value in before.items()) and answered.chosen() is answered.prediction.candidates[1]
    part["ranking"].chosen = 0
    assert part["saved"].value == before["saved"]

def test_downloads_read_back_to_the_same_structure(answered, tmp_path):
    import base64
    links = dict(re.findall(r'download="([^"]+)" href="data:[^,]+,([^"]+)"', answered._answer["saved"].value))
    assert sorted(name.split(".")[1] for name in links) == ["cif", "extxyz", "png", "vasp"]
    for name, data in links.items():
        (tmp_path/name).write_bytes(base64.b64decode(data))
        if not name.endswith("png"): assert compare(answered.chosen().atoms, read_crystal(tmp_path/name)).rmsd < 1e-3
    assert compare(MOSE2, answered.chosen().atoms).solved

def test_the_code_gives_the_same_result_again(answered, tmp_path, monkeypatch):
    names = {}
    exec(answered.code(), names)
    assert [c.score for c in names["prediction"].candidates] == [c.score for c in answered.prediction.candidates]

def test_the_code_of_an_uploaded_cropped_levelled_file(tmp_path, monkeypatch):
    explorer = Explorer()
    upload(explorer, "scan.png", write_micrograph(Micrograph(example("MoSe₂, 2H")[0].data), tmp_path/"scan.png").read_bytes())
    explorer._image["pixel_size"].value, explorer._question["formula"].value = "0.1", "MoSe2"
    explorer._image["pad"].box, explorer._image["levels"].value = [10, 20, 200, 210], (1, 99)
    explorer._question["bravais"].value, explorer._question["k"].value, explorer._question["seed"].value = 0, 3, 4
    quick(explorer)
    prediction, names = explorer.ask(), {}
    monkeypatch.chdir(tmp_path)
    exec(explorer.code(), names)
    assert prediction.micrograph.shape == (210, 200) and "hexagonal" in prediction.prompt
    assert [c.score for c in names["prediction"].candidates] == [c.score for c in prediction.candidates]

def test_a_reference_file_is_compared_with(answered, tmp_path):
    bad = upload(answered, "broken.cif", b"data_x", answered._answer["reference"])
    assert "broken.cif" in said(answered)
    flat = parse_answer("3.32 3.32 18.34\n90 90 120\nMo 0 0 .5\nSe .33333 .66667 .58\nSe .33333 .66667 .42")
    upload(answered, "mine.cif", crystal_bytes(flat, "mine.cif"), answered._answer["reference"])
    assert answered._answer["against"].value == -1 and answered._answer["against"].options[0][0] == "mine.cif"
    assert "RMSD 0.1" in answered._answer["distance"].value and said(answered) == ""

def test_a_crystal_that_cannot_be_superposed_is_shown_alone(answered):
    upload(answered, "other.cif", crystal_bytes(parse_answer(EXAMPLES["graphene"]), "other.cif"), answered._answer["reference"])
    assert "shown alone" in answered._answer["distance"].value

def test_the_scale_by_ruler_and_by_a_known_lattice():
    explorer = Explorer(Micrograph(example("graphene")[0].data))
    assert "scale is unknown" in explorer._image["lattice"].value
    explorer._image["length"].value = "10"
    assert "no ruler" in said(explorer)
    explorer._image["pad"].line, explorer._image["length"].value = [10, 10, 10, 110], "10.0"
    assert explorer._image["pixel_size"].value == "0.1" and said(explorer) == ""
    explorer._image["constant"].value = "2.464"
    assert float(explorer._image["pixel_size"].value) == pytest.approx(.1, rel=.005)

def test_the_preview_is_what_the_model_is_told(answered):
    preview = html.unescape(answered._question["preview"].value)
    assert answered.prediction.prompt in preview and "Mo 1 Se 2 3.30 3.30 120.0" in preview

def test_every_example_is_readable():
    for name in EXAMPLES:
        micrograph, atoms = example(name)
        assert micrograph.shape == (256, 256) and micrograph.pixel_size == .1 and atoms.num_atoms

def test_a_patch_is_made_of_whole_cells_about_the_origin():
    slab = to_slab(MOSE2)
    patch = patch_of_cells(slab, (3, 4))
    assert len(patch) == 12*len(slab.z) and abs(patch.positions[:, 2]).max() < 2
    corners = ((np.array([[0, 0], [1, 1]]) - .5)*[3, 4])@slab.cell
    assert np.allclose(corners.sum(0), 0) and cells_across(slab) == (4, 4)

def test_widgets_have_labels(answered):
    for part in (answered._image, answered._question):
        for name, widget in part.items():
            if hasattr(widget, "description") and name not in ("lattice", "plot", "preview"): assert widget.description, name

def test_a_new_micrograph_forgets_the_old_answer_and_reference():
    explorer = quick(Explorer("MoSe₂, 2H"))
    explorer.ask()
    upload(explorer, "mine.cif", crystal_bytes(MOSE2, "mine.cif"), explorer._answer["reference"])
    explorer._image["example"].value = "graphene"
    assert explorer.prediction is None and explorer.answer.layout.display == "none" and explorer._question["formula"].value == "C"
    explorer.ask()
    assert explorer._answer["against"].options[0] == ("the true structure", -1)

def test_an_answer_to_another_micrograph_is_not_shown(monkeypatch):
    "A file is opened while the model still thinks."
    explorer = quick(Explorer("MoSe₂, 2H"))
    def predict_late(*args, progress, **kwargs):
        from microscopygpt.solve import predict
        found = predict(*args, **kwargs)
        explorer._image["example"].value = "graphene"
        return found
    monkeypatch.setattr("microscopygpt.explore.predict", predict_late)
    explorer.ask_button.click()
    assert explorer.prediction is None and "Cancelled" in explorer.work.doing.value and not explorer.ask_button.disabled

def test_each_comparison_is_drawn_once(answered, monkeypatch):
    drawn = []
    monkeypatch.setattr(CrystalView, "show_slabs", lambda self, *slabs: drawn.append(self))
    answered._answer["ranking"].chosen = 1 - answered._answer["ranking"].chosen
    assert len(drawn) == 2
    answered._answer["against"].value = next(v for _, v in answered._answer["against"].options if v != answered._answer["against"].value)
    assert len(drawn) == 3

def test_crystals_are_drawn_where_nglview_is_not_installed(monkeypatch):
    "As in Colab: from above and along a, the second below the first."
    monkeypatch.setattr("microscopygpt.widgets.find_spec", lambda name: None)
    mos2, thicker = (to_slab(monolayer("MoS2", **more)) for more in ({}, {"thickness": 4.3}))
    view = CrystalView()
    view.show_slabs(mos2)
    assert view.stage.value.count("<svg") == 2
    view.show_slabs(mos2, thicker)
    drawn = view.stage.value.replace("</div>", "").split("<svg")[1:]
    assert len(drawn) == 4 and len({d.split("</svg>")[0] for d in drawn}) == 3 # from above they are alike
