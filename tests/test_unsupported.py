"""Forms of a model that are refused by name before anything is traced, scored or written, and what only looks like one."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.ao import quantization
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.testing._internal.two_tensor import TwoTensor

import depgraph as dg

pytestmark = pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions.*are deprecated:UserWarning")
X = torch.randn(3, 4)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


GRAPH = dg.trace(mlp(), X)
PLAN = dg.cut(GRAPH, "0.weight", [1], dim=0)


@pytest.fixture
def one_rank():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fsdp():
    return FullyShardedDataParallel(mlp(), device_id=torch.device("cpu"))


def fsdp2():
    return fully_shard(mlp(), mesh=dist.init_device_mesh("cpu", (1,)))


def of_another_package(package, name, base=nn.Parameter):
    """A class as a package that is not here would define it."""
    return type(name, (base,), {"__module__": f"{package}.tensors"})


def with_weight(parameter):
    model = mlp()
    model[2].weight = parameter
    return model


def bitsandbytes():
    return with_weight(of_another_package("bitsandbytes", "Params4bit")(torch.randn(2, 8)))


def torchao():
    return with_weight(of_another_package("torchao", "AffineQuantizedTensor")(torch.randn(2, 8)))


def two_tensors():
    return with_weight(nn.Parameter(TwoTensor(torch.randn(2, 8), torch.randn(2, 8))))


def deepspeed():
    model = mlp()
    model[2].weight.ds_id, model[2].weight.ds_status = 3, "not available"
    return model


def dispatched():
    model = mlp()
    model[2]._hf_hook = object()
    return model


def gptq():
    model = mlp()
    del model[2].weight
    model[2].register_buffer("qweight", torch.zeros(2, 1, dtype=torch.int32))
    return model


def dynamic():
    return quantization.quantize_dynamic(mlp(), {nn.Linear})


def static():
    model = nn.Sequential(quantization.QuantStub(), *mlp(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(model, inplace=True)(X)
    return quantization.convert(model)


def quantised_buffer():
    model = mlp()
    model[2].register_buffer("scale", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    return model


FORMS = {
    fsdp: ("FullyShardedDataParallel", "the model itself", "before it is sharded"),
    fsdp2: ("DTensor", "'0.weight (DTensor)'", "get_model_state_dict", "dg.execute_ take such a model"),
    deepspeed: ("DeepSpeed", "'2.weight (Parameter)'", "before it is sharded"),
    dispatched: ("accelerate", "'2'", "remove_hook_from_module"),
    torchao: ("torchao", "'2.weight (AffineQuantizedTensor)'", "floating point"),
    bitsandbytes: ("bitsandbytes", "'2.weight (Params4bit)'", "quantization_config"),
    gptq: ("GPTQ", "'2.qweight'", "floating point"),
    dynamic: ("torch.ao", "'0._packed_params._packed_params'", "floating point"),
    static: ("torch.ao", "'1._packed_params._packed_params'", "floating point"),
    quantised_buffer: ("torch.ao", "'2.scale (Tensor)'", "floating point"),
    two_tensors: ("made of other tensors", "'2.weight (TwoTensor)'", "plain parameters"),
}


@pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)
def test_what_cannot_be_pruned_is_refused_by_name(make, one_rank):
    """With what is met, where, and what to do; forward does not run, and criteria read no batch."""
    model = make()
    model.register_forward_pre_hook(lambda *_: pytest.fail("forward has run"))

    def batches():
        pytest.fail("a batch was read")
        yield X

    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    never_sharded = (
        lambda: dg.trace(model, X),
        lambda: dg.execute_(PLAN, model),
        lambda: dg.optimizers.carry_state(PLAN, model, optimizer),
    )
    for use in (
        *(() if make is fsdp2 else never_sharded),
        lambda: dg.score(GRAPH, model, dg.Magnitude(p=2)),
        lambda: dg.score(GRAPH, model, dg.criteria.Taylor(batches(), lambda m, batch: m(batch).sum())),
        lambda: dg.penalties.group_lasso(GRAPH, model, 0.1),
        lambda: dg.penalties.group_l2(GRAPH, model, {"0.weight:0": 0.1}),
        lambda: dg.execute(PLAN, model),
        lambda: dg.mask(PLAN, model),
        lambda: dg.mask_(PLAN, model),
    ):
        with pytest.raises(dg.errors.UnsupportedError) as caught:
            use()
        assert all(words in str(caught.value) for words in (*FORMS[make], "Nothing was changed"))
        assert len(caught.value.problems) == 1


def test_all_forms_are_told_at_once_and_many_places_by_number():
    model = nn.Sequential(*[gptq() for _ in range(4)], bitsandbytes())
    with pytest.raises(dg.errors.UnsupportedError) as caught:
        dg.trace(model, X)
    assert len(caught.value.problems) == 2 and "'0.2.qweight', '1.2.qweight', '2.2.qweight' and 1 more" in str(caught.value)


def gradients_joined(model):
    """Whether the wrapper's reducer, which joins gradients between ranks, gets those of each parameter."""
    met = []
    model.register_comm_hook(met, joining)
    model(X).sum().backward()
    return sum(met) == sum(parameter.numel() for parameter in model.parameters())


def joining(met, bucket):
    met.append(bucket.buffer().numel())
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def test_a_model_whose_gradients_are_joined_is_not_executed_in_place(one_rank):
    """DistributedDataParallel would not notice the new parameters; wrapped anew it joins them."""
    wrapped = DistributedDataParallel(mlp())
    before = copy.deepcopy(wrapped.module.state_dict())
    for model in (wrapped, nn.Sequential(wrapped), torch.compile(wrapped)):
        plan = dg.cut(dg.trace(wrapped, X), "0.weight", [1], dim=0)
        with pytest.raises(dg.errors.UnsupportedError, match=r"wrap anew: dg\.execute_"):
            dg.execute_(plan, model)
        assert all(torch.equal(before[name], tensor) for name, tensor in wrapped.module.state_dict().items())
    dg.mask_(PLAN, wrapped).restore()
    small = DistributedDataParallel(dg.execute(PLAN, wrapped))
    dg.execute_(PLAN, wrapped.module)
    again = DistributedDataParallel(wrapped.module)
    assert gradients_joined(small) and gradients_joined(again) and small(X).allclose(again(X))


def test_an_averaged_model_is_unwrapped():
    """Of stochastic weight averaging: the average of a pruned model goes on with the pruned model."""
    model = mlp()
    average = AveragedModel(model)
    assert dg.trace(average, X) == GRAPH and dg.name_of(average, average.module[2]) == "2"
    assert dg.score(GRAPH, average, dg.Magnitude(p=2)) == dg.score(GRAPH, model, dg.Magnitude(p=2))
    assert torch.equal(dg.execute(PLAN, average)(X), dg.execute(PLAN, model)(X))
    dg.execute_(PLAN, model)
    dg.execute_(PLAN, average)
    average.update_parameters(model)
    assert average(X).allclose(model(X)) and average.module[0].weight.shape == (7, 4)


def test_a_model_prepared_for_quantisation_has_float_weights():
    """Observers stay observers, and the pruned model is converted."""
    model = nn.Sequential(quantization.QuantStub(), *mlp(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(model, inplace=True)
    graph = dg.trace(model, X)
    plan = dg.cut(graph, "1.weight", [1], dim=0)
    small = dg.execute(plan, model)
    assert dg.trace(small, X) == plan.apply(graph) and small(X).shape == (3, 2)
    assert quantization.convert(small)(X).shape == (3, 2)


class Quantised(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.next, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 2)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(self.quant(x))))
        return self.dequant(self.head(self.next(x).mean((2, 3))))


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("engine", ["fbgemm", "qnnpack"])
def test_training_for_quantisation_can_be_pruned(engine, observed):
    """A scale for each channel goes with the channel; the pruned model trains on, and is converted."""
    model, x = Quantised().train(), torch.randn(2, 3, 8, 8)
    model.qconfig = quantization.get_default_qat_qconfig(engine)
    model = quantization.prepare_qat(quantization.fuse_modules_qat(model, [["conv", "norm", "relu"]]))
    if observed:
        model(x)
    graph = dg.trace(model, x)
    assert {group.name for group in graph.groups} == {"conv.weight:0", "next.weight:0"}
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    small = dg.execute(plan, model)
    assert dg.trace(small, x) == plan.apply(graph)
    small(x).sum().backward()
    scales = small.conv.weight_fake_quant.scale.shape
    assert scales == (4 if engine == "fbgemm" else 1,) and small.next.weight.grad.shape == (3, 4, 3, 3)
    assert quantization.convert(small.eval())(x).shape == (2, 2)
