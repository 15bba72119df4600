"""Generation with a cache on pruned models: the tokens are those without it, also after saving and loading."""

import pytest
import torch

import depgraph as dg
from tests.zoo import transformers
from tests.zoo.language import small_transformers

pytestmark = pytest.mark.needs("transformers", "safetensors")
HALF, WHOLE_HEADS, QUERIES = {"*": 0.5}, {"*": 0.5, "role:head": 0.5, "role:head_dim": 0}, {"role:kv_group": 0.5}
LITTLE = (("llama_gqa", WHOLE_HEADS), ("llama_gqa", QUERIES), ("gpt2", HALF))
DECODERS = ("llama_gqa", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "opt", "gpt_neox", "mixtral")
NO_HEADS = ("mamba", "falcon", "bloom")  # falcon has one head of keys, bloom a slope for each head, which counts them
MANY = tuple(
    (name, ratio)
    for name in (
        "llama_gqa",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "phi3",
        "opt",
        "gpt_neox",
        "mixtral",
        "t5",
        "bart",
        *NO_HEADS,
    )
    for ratio in (HALF, WHOLE_HEADS)
    if name not in NO_HEADS or ratio is HALF
)


def prompted(name):
    """A model with a prompt of two texts, the first one padded on the left, and how it generates."""
    torch.manual_seed(0)
    transformers().logging.set_verbosity_error()
    model, _, inputs = small_transformers(name)()
    ids = torch.randint(3, 90, (2, 8))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
    if model.config.is_encoder_decoder:
        options["decoder_start_token_id"] = 0
    return model, inputs, {"inputs": ids, "attention_mask": mask}, options


def generating(model, prompt, options):
    """The graph of a forward, of which the costs are, and of a generation."""
    return dg.trace(model, *forward_of(model), also=[dg.Call(prompt, options, method="generate")])


def forward_of(model):
    ids = torch.arange(3, 11)[None]
    return (), {"input_ids": ids} | ({"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {})


def generated(model, prompt, options, **more):
    """The tokens, and the logits that they were chosen by."""
    many = {"max_new_tokens": 6, "min_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        result = model.generate(**prompt, **options | many, **more)
    return result.sequences, torch.stack(result.logits)


def are_equal(one, other):
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def are_close(one, other):
    return torch.equal(one[0], other[0]) and torch.allclose(one[1], other[1], rtol=1e-4, atol=1e-5)


def checked(name, ratio):
    """A pruned model that generates with its cache as without, its plan, how it generates and what."""
    model, _, prompt, options = prompted(name)
    graph = generating(model, prompt, options)
    assert {group.name for group in graph.groups} == {group.name for group in dg.trace(model, *forward_of(model)).groups}
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=ratio)
    small = dg.execute(plan, model)
    cached = generated(small, prompt, options, use_cache=True)
    assert are_close(cached, generated(small, prompt, options, use_cache=False))
    assert not are_close(cached, generated(model, prompt, options, use_cache=True))
    return small, plan, (prompt, options), cached


def check_loaded(name, ratio, folder):
    """The same tokens and logits once the configuration has followed, and from the folder."""
    small, plan, (prompt, options), cached = checked(name, ratio)
    dg.hf.update_config_(plan, small)
    assert are_equal(cached, generated(small, prompt, options, use_cache=True))
    dg.hf.save_pretrained(plan, small, folder)
    loaded = dg.hf.from_pretrained(folder)
    assert are_equal(cached, generated(loaded, prompt, options, use_cache=True))
    assert loaded.config.to_dict().keys() == small.config.to_dict().keys()


@pytest.mark.parametrize(("name", "ratio"), LITTLE)
def test_pruned_models_generate_with_their_cache(name, ratio, tmp_path):
    """Whole heads, query heads of each key-value head, head dims; also when the configuration has followed, and loaded."""
    check_loaded(name, ratio, tmp_path / "model")


@pytest.mark.models
@pytest.mark.parametrize(("name", "ratio"), MANY)
def test_more_families_generate_with_their_cache(name, ratio):
    """More decoders, experts, encoders with decoders, and a state space."""
    checked(name, ratio)


@pytest.mark.models
@pytest.mark.parametrize("name", ["t5", "mamba"])
def test_more_families_generate_when_loaded(name, tmp_path):
    """An encoder with a decoder, and a state space, from their folders."""
    check_loaded(name, HALF, tmp_path / "model")


def test_query_heads_ask_for_a_trace_of_the_generation():
    """A forward without a mask does not read how many there are of each key-value head; its plan says so, and may be edited."""
    model, _, prompt, options = prompted("llama_gqa")
    graph = dg.trace(model, *forward_of(model))
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=QUERIES)
    counts = [item for item in plan.unread if item.path.endswith("num_key_value_groups")]
    assert [(item.value, item.sizes) for item in counts] == [(4, (2,))] * 2
    with pytest.raises(RuntimeError):
        generated(dg.execute(plan, model), prompt, options)
    edited = plan.edit(counts[0].path, 2).edit(counts[1].path, 2)
    followed = generating(model, prompt, options)
    whole = dg.plan(followed, dg.score(followed, model, dg.Magnitude(p=2)), ratio=QUERIES)
    assert not any(item.path.endswith("num_key_value_groups") for item in whole.unread)
    assert are_equal(*(generated(dg.execute(each, model), prompt, options) for each in (edited, whole)))


def test_frequencies_that_long_prompts_compute_anew_ask_for_a_trace_of_one():
    """Dynamic rotary frequencies follow from the configuration's head size: where a long prompt is traced, head dims stay."""
    torch.manual_seed(0)
    module = transformers()
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100}
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = module.LlamaConfig(**sizes, num_hidden_layers=2, max_position_embeddings=16, rope_parameters=rope)
    model = module.LlamaForCausalLM(config).eval()
    short, long = ({"input_ids": torch.arange(length)[None]} for length in (8, 24))
    graphs = dg.trace(model, short), dg.trace(model, short, also=[dg.Call(long)])
    assert [sum(group.role == "head_dim" for group in graph.groups) for graph in graphs] == [1, 0]
    plans = [dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5) for graph in graphs]
    with pytest.raises(RuntimeError):
        dg.execute(plans[0], model)(**long)
    small = dg.execute(plans[1], model)
    assert [small(**prompt).logits.shape[1] for prompt in (short, long, short)] == [8, 24, 8]
