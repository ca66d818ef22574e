"""CUDA graphs for tests: those of a card, or, on a CPU, a stand-in that keeps one memory for inputs, results and
gradients, and wants parameters to stay where they are, as they do."""

import torch
from torch import distributed

from bsrnn import devices, train
from bsrnn.config import TrainingConfig
from bsrnn.spectral import stft


def make_graphed_callables(network, samples):
    """In place of torch.cuda's."""
    plain, (place,) = network.forward, samples
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    kept, places = {}, [parameter.data_ptr() for parameter in network.parameters()]

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(_, x, *__):
            assert [parameter.data_ptr() for parameter in network.parameters()] == places
            place.copy_(x)
            with torch.enable_grad():
                kept["live"] = plain(place)
            kept.setdefault("result", kept["live"].detach().clone()).copy_(kept["live"].detach())
            return kept["result"].detach()

        @staticmethod
        def backward(_, gradient):
            gradients = torch.autograd.grad(kept.pop("live"), parameters, gradient)
            for memory, new in zip(
                kept.setdefault("gradients", [x.clone() for x in gradients]), gradients, strict=True
            ):
                memory.copy_(new)
            return None, *(memory.detach() for memory in kept["gradients"])

    network.forward = lambda x: Replay.apply(x, *parameters)


class Step(torch.nn.Module):
    """A training step as DDP takes it."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, batch):
        return self.module.training_step(batch, 0)


def take_part(rank, rendezvous, device, model, batches, out):
    """One of two processes that take half of each batch; the gradients of the last one are left in `out`."""
    if device == "cpu":
        torch.cuda.make_graphed_callables = make_graphed_callables
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    module = train.TrainingModule(model.to(device).train(), TrainingConfig())
    halves = [[part.chunk(2)[rank].to(device) for part in batch] for batch in batches]
    module.graphed = devices.Graphed(module.model, stft(halves[0][0], model.config.n_fft), False)
    step = torch.nn.parallel.DistributedDataParallel(Step(module))
    (optimizer,), _ = module.configure_optimizers()
    for half in halves:
        module.optimizer_zero_grad(0, 0, optimizer)
        step(half).backward()
    assert module.graphed.replays == len(halves)
    if rank == 0:
        torch.save({name: parameter.grad.cpu() for name, parameter in model.named_parameters()}, out)
    distributed.destroy_process_group()
