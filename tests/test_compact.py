"The compact model is MBart, answers as transformers would generate them, and is read back as it was written."
import json
import pytest, torch
from microscopygpt.compact import (END, PAD, START, VOCABULARY, AnswerGrammar, CompactConfig, CompactModel,
                                   CompactVLM, ModelError, load_compact, save_compact, weights_folder, word_ids,
                                   words_of)
from microscopygpt.chat import make_prompt

SHIPPED = str(weights_folder()/"compact")

def batch():
    torch.manual_seed(0)
    prompts = [word_ids(p) for p in ("Mo 1 S 2 3.20 3.20 120.0", "C 1", "Cr 1 I 3")]
    input_ids = torch.tensor([p + [PAD]*(7 - len(p)) for p in prompts])
    return dict(pixel_values=torch.randn(3, 2, 24, 32), input_ids=input_ids, attention_mask=(input_ids != PAD).long())

@pytest.fixture(scope="module")
def mbart():
    "transformers' own network with the shipped weights."
    from transformers import MBartConfig, MBartForConditionalGeneration
    ours = load_compact(SHIPPED).model
    config = MBartConfig(vocab_size=len(VOCABULARY), d_model=192, encoder_layers=3, decoder_layers=4, encoder_attention_heads=6, decoder_attention_heads=6, encoder_ffn_dim=768,
                         decoder_ffn_dim=768, max_position_embeddings=160, activation_function="relu", dropout=.15, pad_token_id=PAD, bos_token_id=START, eos_token_id=END,
                         decoder_start_token_id=START, forced_eos_token_id=None, attn_implementation="eager")
    theirs = MBartForConditionalGeneration(config)
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith("vision.")}
    missing = theirs.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    theirs.tie_weights()
    return theirs.eval()

def seen(model, inputs):
    "Embeddings and mask of the visual tokens and the prompt."
    vision = model.vision(inputs["pixel_values"])
    mask = torch.cat([torch.ones(vision.shape[:2], dtype=int), inputs["attention_mask"]], 1)
    return torch.cat([vision, model.model.shared(inputs["input_ids"])], 1), mask

def test_the_network_is_mbart(mbart):
    ours, inputs = load_compact(SHIPPED).model, batch()
    words = torch.randint(4, len(VOCABULARY), (3, 20))
    words[:, 0] = START
    embeds, mask = seen(ours, inputs)
    with torch.no_grad():
        theirs = mbart(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=words, use_cache=False).logits
        assert torch.allclose(ours(**inputs, decoder_input_ids=words), theirs, atol=1e-4)

def test_answers_are_those_that_transformers_generates(mbart):
    from transformers import LogitsProcessorList
    ours, inputs, grammar = load_compact(SHIPPED).model, {k: v[:1].expand(8, *v.shape[1:]) for k, v in batch().items()}, AnswerGrammar("MoS2")
    embeds, mask = seen(ours, inputs)
    torch.manual_seed(7)
    rows, log_p = ours.generate(**inputs, grammar=grammar, temperature=1.3)
    torch.manual_seed(7)
    with torch.no_grad(): out = mbart.generate(encoder_outputs=mbart.model.encoder(inputs_embeds=embeds, attention_mask=mask), attention_mask=mask, do_sample=True, temperature=1.3, top_k=0,
                                               max_new_tokens=102, logits_processor=LogitsProcessorList([grammar]), return_dict_in_generate=True, output_scores=True)
    assert torch.equal(rows, out.sequences)
    steps = mbart.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    assert torch.allclose(log_p, torch.where(steps.isfinite(), steps, 0.).sum(1), atol=1e-3)

def test_kept_keys_change_nothing():
    model, inputs = load_compact(SHIPPED).model, batch()
    words = torch.randint(4, len(VOCABULARY), (3, 9))
    with torch.no_grad():
        memory, readable = model.encode(**inputs)
        kept = [{} for _ in model.model.decoder.layers]
        steps = [model.decode(words[:, i:i+1], memory, readable, i, kept) for i in range(9)]
        assert torch.allclose(torch.cat(steps, 1), model.decode(words, memory, readable), atol=1e-4)

def test_padding_changes_nothing():
    model, inputs = load_compact(SHIPPED).model, batch()
    short = dict(inputs, input_ids=inputs["input_ids"][1:2, :2], attention_mask=inputs["attention_mask"][1:2, :2], pixel_values=inputs["pixel_values"][1:2])
    words = torch.tensor([[START, *word_ids("x2 2.46 2.46 120.0")]])
    with torch.no_grad(): assert torch.allclose(model(**short, decoder_input_ids=words)[0], model(**inputs, decoder_input_ids=words.expand(3, -1))[1], atol=1e-4)

def test_a_model_is_read_as_it_was_written(tmp_path):
    toy = CompactModel(CompactConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2)).start_from_features()
    save_compact(toy, tmp_path)
    again = load_compact(str(tmp_path))
    assert again.model.config == toy.config
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in toy.state_dict().items())
    assert again.generate([None], [make_prompt("MoS2")], k=2) == CompactVLM(toy).generate([None], [make_prompt("MoS2")], k=2)

@pytest.mark.parametrize("spoil", ["{", "[]", "{}", '{"d_model": "wide"}'])
def test_a_damaged_configuration_is_named(tmp_path, spoil):
    save_compact(load_compact(SHIPPED).model, tmp_path)
    (tmp_path/"config.json").write_text(spoil)
    with pytest.raises(ModelError, match="cannot be read"): load_compact(str(tmp_path))

def test_a_configuration_of_other_sizes_is_named(tmp_path):
    save_compact(load_compact(SHIPPED).model, tmp_path)
    sizes = json.loads((tmp_path/"config.json").read_text())
    (tmp_path/"config.json").write_text(json.dumps(sizes | dict(d_model=96)))
    with pytest.raises(ModelError, match="cannot be read"): load_compact(str(tmp_path))

def test_words_and_ids():
    text = "x2 3.20 3.20 120.0 Mo 0.00 0.00 +0.0"
    assert words_of([START, *word_ids(text), END, PAD]) == text
    assert word_ids("Mo nonsense")[1] == VOCABULARY.index("<unk>")
