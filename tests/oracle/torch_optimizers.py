"""Two steps of optimizers by torch.optim.

    torch_optimizers.py > crates/ir/tests/optimizers.txt

Each line: the optimizer and its attributes as the op names them, a colon, and the parameters after each of two steps, for
three parameters that begin at START and have the gradients GRADIENTS. LAMB, which torch.optim has not, is computed by
algorithm 2 of You and others (2020), with the identity as the scaling function, in numpy and binary64.
Made with torch 2.15.0 on the CPU.
"""

import numpy as np
import torch

START = [1.0, -0.5, 0.25]
GRADIENTS = [[0.5, -0.25, 0.125], [-0.375, 0.5, 0.0625]]
RATE = 0.125

CASES = [
    ("SgdStep", {}, torch.optim.SGD, {}),
    ("SgdStep", {"weight_decay": 0.25}, torch.optim.SGD, {"weight_decay": 0.25}),
    ("SgdStep", {"momentum": 0.75}, torch.optim.SGD, {"momentum": 0.75}),
    (
        "SgdStep",
        {"momentum": 0.75, "dampening": 0.5, "weight_decay": 0.25},
        torch.optim.SGD,
        {"momentum": 0.75, "dampening": 0.5, "weight_decay": 0.25},
    ),
    (
        "SgdStep",
        {"momentum": 0.75, "nesterov": 1},
        torch.optim.SGD,
        {"momentum": 0.75, "nesterov": True},
    ),
    ("AdamStep", {}, torch.optim.Adam, {}),
    (
        "AdamStep",
        {"beta1": 0.75, "beta2": 0.875, "epsilon": 0.125, "weight_decay": 0.25},
        torch.optim.Adam,
        {"betas": (0.75, 0.875), "eps": 0.125, "weight_decay": 0.25},
    ),
    (
        "AdamStep",
        {"weight_decay": 0.25, "decoupled": 1},
        torch.optim.AdamW,
        {"weight_decay": 0.25},
    ),
    ("AdamaxStep", {}, torch.optim.Adamax, {}),
    (
        "AdamaxStep",
        {"beta1": 0.75, "beta2": 0.875, "epsilon": 0.125, "weight_decay": 0.25},
        torch.optim.Adamax,
        {"betas": (0.75, 0.875), "eps": 0.125, "weight_decay": 0.25},
    ),
    ("RmsPropStep", {}, torch.optim.RMSprop, {}),
    (
        "RmsPropStep",
        {"alpha": 0.75, "momentum": 0.5, "epsilon": 0.125, "weight_decay": 0.25},
        torch.optim.RMSprop,
        {"alpha": 0.75, "momentum": 0.5, "eps": 0.125, "weight_decay": 0.25},
    ),
]


def steps(make, arguments):
    parameter = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = make([parameter], lr=RATE, **arguments)
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        yield parameter.detach().numpy().copy()


def lamb(beta1=0.9, beta2=0.999, epsilon=1e-6, weight_decay=0.0):
    x, m, v = np.array(START), np.zeros(3), np.zeros(3)
    for t, gradient in enumerate(np.array(GRADIENTS), 1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        ratio = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        update = ratio + weight_decay * x
        x = x - RATE * np.linalg.norm(x) / np.linalg.norm(update) * update
        yield x


def line(op, attributes, made):
    words = " ".join([op, *(f"{name}={value}" for name, value in attributes.items())])
    print(f"{words}: {' '.join(f'{number:.9g}' for step in made for number in step)}")


for op, attributes, make, arguments in CASES:
    line(op, attributes, steps(make, arguments))
for attributes in [{}, {"beta1": 0.75, "beta2": 0.875, "epsilon": 0.125, "weight_decay": 0.25}]:
    line("LambDirection", attributes, lamb(**attributes))
