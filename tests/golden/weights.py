"""Makes weights_*.pth and weights.safetensors: small weight files as PyTorch writes them, and the values they hold.

Run in this folder: python weights.py. The metadata of weights.safetensors names the versions it was last run with.
"""

import torch
from safetensors.torch import save_file

torch.manual_seed(0)
base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7
storage = torch.randn(40)

plain = {
    "f32": base,
    "f64": base.double() / 3,
    "f16": base.half(),
    "bf16": base.bfloat16(),
    "i64": torch.tensor([-(2**40), 0, 7]),
    "i32": torch.tensor([-5, 6], dtype=torch.int32),
    "i16": torch.tensor([-5, 6], dtype=torch.int16),
    "u8": torch.tensor([0, 255], dtype=torch.uint8),
    "scalar": torch.tensor(41),
    "empty": torch.zeros(0, 3),
    # Views: another order of axes, a step of two, an offset into a storage that two tensors share.
    "transposed": base.permute(2, 0, 1),
    "matrix_transposed": base[0].t(),
    "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "every_second": base[:, :, ::2],
    "shared_first": storage[:10],
    "shared_rest": storage[10:].reshape(5, 6),
    "parameter": torch.nn.Parameter(torch.randn(3)),
}
torch.save(plain, "weights_plain.pth")
torch.save(plain, "weights_protocol4.pth", pickle_protocol=4)
torch.save(plain, "weights_legacy_plain.pth", _use_new_zipfile_serialization=False)
torch.save(plain, "weights_legacy_protocol4.pth", pickle_protocol=4, _use_new_zipfile_serialization=False)
save_file(
    {name: tensor.detach().clone().contiguous() for name, tensor in plain.items()},
    "weights.safetensors",
    metadata={"torch": torch.__version__},
)

net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
with torch.no_grad():
    for index, tensor in enumerate(net.parameters()):
        tensor.fill_(index + 0.5)
parallel = torch.nn.DataParallel(net)
optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
net(torch.ones(1, 1, 8, 8)).sum().backward()
optimiser.step()
with torch.no_grad():
    for index, tensor in enumerate(net.parameters()):
        tensor.fill_(index + 0.5)
torch.save(
    {
        "epoch": 3,
        "arch": "small",
        "best": torch.tensor(0.5),
        "state_dict": parallel.state_dict(),
        "optimizer": optimiser.state_dict(),
    },
    "weights_checkpoint.pth",
)
torch.save(net.state_dict(), "weights_legacy.pth", _use_new_zipfile_serialization=False)
torch.save(net, "weights_module.pth")
torch.save({"x": torch.zeros(1).expand(1000)}, "weights_expanded.pth")
torch.save({"x": torch.zeros(2, dtype=torch.complex64)}, "weights_complex.pth")
