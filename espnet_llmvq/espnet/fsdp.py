"""Sharded training: torch's FSDP2 (`fully_shard`) behind ESPnet's trainer, in place of DistributedDataParallel.

Each layer of the LLM is a group of its own, gathered when it runs; the rest of the model is one group, gathered for the
whole of a step. Checkpoints hold whole tensors, as those of a single process do.
"""

import contextlib
import functools
import itertools
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.espnet import compiled
from espnet_llmvq.llm.directory import layers_of
from espnet_llmvq.model.freezing import trains

ONE_PROCESS = "fsdp shares a model among processes, and there is one; give --ngpu 2 or more, or leave fsdp out"
# Keys of ESPnet that do not go with fsdp: {key: what to do}.
CONFLICTS = {
    "sharded_ddp": "leave it out: fsdp is in its place",
    "use_deepspeed": "leave it out: fsdp is in its place",
    "ddp_comm_hook": "leave it out: it is of DistributedDataParallel",
    "unused_parameters": "leave it out: it is of DistributedDataParallel",
    "use_amp": "write autocast: bfloat16",
    "grad_noise": "leave it out: it adds a whole tensor to a part of one",
    "freeze_param": "write freeze",
    "init_param": "leave it out: --encoder_file and the phase before are what a training begins with",
    "use_adapter": "write llm_conf.lora",
}
# They work on each number of a parameter by itself; others need norms of whole tensors.
OPTIMIZERS = ("adam", "adamw", "sgd")


def check_keys(config, where="config"):
    """Raise UserError for keys that do not go with `fsdp: true`. config: dict; where: what messages call it."""
    if not config.get("fsdp"):
        return
    for key, remedy in CONFLICTS.items():
        if config.get(key):
            raise UserError(f"{where}: fsdp and {key} do not go together; of {key}: {remedy}")
    if compiled.wanted(config, where) != "none":
        raise UserError(f"{where}: fsdp and compile_llm do not go together yet; leave one out")
    if config.get("optim"):
        check_name(f"optim with fsdp in {where}", config["optim"], OPTIMIZERS)
    if (config.get("model_conf") or {}).get("llm_weight", 1.0) == 0:
        raise UserError(
            f"{where}: fsdp shards the layers of the LLM, and this training runs none (model_conf.llm_weight: 0); "
            "leave fsdp out: several processes then hold the whole model each"
        )
    if config.get("use_matplotlib") and config.get("num_att_plot"):
        raise UserError(f"{where}: fsdp: one process cannot plot attention alone; write use_matplotlib: false")


def check_processes(backend, ngpu):
    """Raise UserError unless there are several processes, of a GPU each, or on CPUs that talk by gloo."""
    if not dist.is_initialized() or dist.get_world_size() < 2:
        raise UserError(ONE_PROCESS)
    if not ngpu and backend != "gloo":
        raise UserError(f"fsdp: processes on CPUs talk by gloo, not {backend}; give --dist_backend gloo")


def join_gradients(model, first, speech, heard):
    """The first LLM input (P, H) of a batch as it is, through which this process has each gradient that another has.

    speech, heard: whether the batch of this process has speech, and text as if heard. Without this the others would
    wait for its gradient of the bridge for ever. Raises UserError where the encoder would need such gradients too.
    """
    if not torch.is_grad_enabled():
        return first
    some = torch.tensor([speech, heard], dtype=torch.float32, device=first.device)
    dist.all_reduce(some, dist.ReduceOp.MAX)
    speech_somewhere, heard_somewhere = some.bool().tolist()
    lacking = []
    if speech_somewhere and not speech:
        if trains(model.speech_encoder):
            raise UserError(
                "fsdp: a process has only sequences without speech, while the encoder trains; leave such sequences "
                "out of the mixture, freeze the encoder, or leave fsdp out"
            )
        lacking = model.bridge.parameters()
    elif heard_somewhere and not (speech_somewhere or heard):
        lacking = [p for name, p in model.bridge.named_parameters() if name == "codebook"]
    for p in lacking:
        if p.requires_grad:
            first = first + 0.0 * p.sum()
    return first


def shard(model, ngpu):
    """Share the tensors of a `SpeechLLM` among all processes, in place. ngpu: 0: they are on CPUs.

    Raises UserError for batch normalisation that trains, whose statistics would be those of one process.
    """
    for name, module in model.train().named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training:
            raise UserError(f"fsdp: {name} is batch normalisation that trains; train the encoder before (stage 7)")
    layers, precision = layers_of(model.llm), MixedPrecisionPolicy()
    if not layers:
        raise UserError(f"fsdp: the layers of {type(model.llm).__name__} are not known; leave fsdp out")
    if model.autocast:
        # Layers are gathered in the precision they compute in. Their inputs are left to autocast, as without sharding.
        precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh("cuda" if ngpu else "cpu", (dist.get_world_size(),))
    model.join_gradients = functools.partial(join_gradients, model)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    # One number cannot be shared (the learned temperature): all have it, see `clip`.
    alone = {p for p in model.parameters() if p.dim() == 0}
    return fully_shard(model, mesh=mesh, ignored_params=alone)


def whole(value, keep):
    """The whole tensor of a shard, on the CPU; None unless `keep`. All processes take part. Others as they are."""
    if not isinstance(value, DTensor):
        return value
    value = value.full_tensor()
    return value.cpu() if keep else None


def part(value, like):
    """The shard of this process of a whole tensor, cut as `like` is. Nothing is sent. Others as they are."""
    if not (isinstance(like, DTensor) and torch.is_tensor(value)) or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


class Shards:
    """What ESPnet's trainer asks of a sharded model and its optimizers, while it runs: whole checkpoints.

    It asks the first process alone for them, so all gather them before (`gather`).
    """

    def __init__(self, model, optimizers):
        self.model, self.optimizers = model, optimizers
        self.own, self.gathered = model.state_dict, {}

    def gather(self):
        """Gather what the next checkpoint holds, in the memory of the first process."""
        keep = dist.get_rank() == 0
        states = [self.own(), *(optimizer.state_dict()["state"] for optimizer in self.optimizers)]
        states = tree_map(functools.partial(whole, keep=keep), states)
        if keep:
            self.gathered = dict(zip([self.model, *self.optimizers], states))

    def model_state(self, *args, **kwargs):
        found = self.gathered.pop(self.model, None)
        return self.own(*args, **kwargs) if found is None else found

    def optimizer_state(self, optimizer, state):
        """Hook behind `state_dict`: as of one process."""
        return {**state, "state": self.gathered.pop(optimizer, state["state"])}

    @staticmethod
    def load_model(model, state, *_):
        """Hook before `load_state_dict`."""
        for name, own in torch.nn.Module.state_dict(model).items():
            if name in state:
                state[name] = part(state[name], own)

    @staticmethod
    def load_optimizer(optimizer, state):
        """Hook before `load_state_dict`."""
        parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
        saved = itertools.chain.from_iterable(group["params"] for group in state["param_groups"])
        parts = {
            at: {name: part(value, p) for name, value in state["state"][at].items()}
            for at, p in zip(saved, parameters)
            if at in state["state"]
        }
        return {**state, "state": parts}

    def clip(self, parameters, max_norm, norm_type=2.0):
        """In place of torch's `clip_grad_norm_`, which takes sharded parameters alone or none. The norm is plain."""
        parameters = [p for p in parameters if p.grad is not None]
        alone = [p for p in parameters if not isinstance(p, DTensor)]
        for p in alone:
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()
        kinds = [alone, [p for p in parameters if isinstance(p, DTensor)]]
        norms = [torch.nn.utils.get_total_norm([p.grad for p in kind], norm_type) for kind in kinds if kind]
        norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
        total = torch.linalg.vector_norm(torch.stack(norms), float(norm_type))
        for kind in kinds:
            torch.nn.utils.clip_grads_with_norm_(kind, max_norm, total)
        return total

    @contextlib.contextmanager
    def hooked(self):
        """Let ESPnet's trainer, which has no place for that, train a sharded model. The hooks stay."""
        self.model.shards = self
        self.model.register_load_state_dict_pre_hook(self.load_model)
        for optimizer in self.optimizers:
            optimizer.register_state_dict_post_hook(self.optimizer_state)
            optimizer.register_load_state_dict_pre_hook(self.load_optimizer)
        with (
            mock.patch.object(torch.nn.parallel, "DistributedDataParallel", lambda model, **_: model),
            mock.patch.object(torch.nn.utils, "clip_grad_norm_", self.clip),
            mock.patch.object(self.model, "state_dict", self.model_state),
        ):
            yield


def is_sharded(model):
    return isinstance(model, FSDPModule)


def running(model, optimizers):
    """Context in which ESPnet's trainer trains a model; nothing is changed for one that is not sharded."""
    return Shards(model, optimizers).hooked() if is_sharded(model) else contextlib.nullcontext()
