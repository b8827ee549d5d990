"""Times training steps or inference of Lamplight's networks in PyTorch.

    python models/bench/pytorch_step.py --mode step --model resnet20 --batch 32 --threads 2
    python models/bench/pytorch_step.py --mode infer --model gru --precision bf16

Wants `torch` and nothing else. Prints one line of JSON. `lamplight agent bench … --against pytorch`
starts it with --serve to take turns with it: it says `{"ready": true, …}`, then answers each line
`run STEPS` with `{"steps": …, "seconds": …}`, until its input ends. What went wrong is a line
`{"error": …}`, with exit code 1.

It is an ordinary eager program, with what makes one fast: channels last where that is faster (tried
beforehand in a process of its own), autocast for bf16 (for inference also weights that were cast, if
that is faster), the fused optimizer, inference mode, no data loader: one batch lies ready in memory.

Networks mirror those of `models/src/zoo` node by node; with --parameters their number is compared.
Memory: `peak_bytes` is the process's high-water mark over its size just before the first step,
`peak_with_model_bytes` over its size after the import, so with weights and batch. Null where there is
no /proc.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from contextlib import nullcontext

#: Network -> usual input and classes, as `lamplight agent bench` has them.
USUAL = {
    "tcn": ([6, 128], 6),
    "gru": ([6, 128], 6),
    "lenet": ([1, 28, 28], 10),
    "resnet20": ([3, 32, 32], 10),
    "resnet18": ([3, 224, 224], 1000),
    "resnet34": ([3, 224, 224], 1000),
    "resnet50": ([3, 224, 224], 1000),
    "resnet101": ([3, 224, 224], 1000),
    "resnet152": ([3, 224, 224], 1000),
    "mobilenetv2": ([3, 96, 96], 1000),
    "vgg11": ([3, 32, 32], 10),
    "vgg16": ([3, 32, 32], 10),
}

#: A repeat takes at least this long, unless one step does.
REPEAT_SECONDS = 0.3
#: Steps before anything is timed.
WARM_UP = 3


class Fault(Exception):
    """What the caller can do something about."""


def torch_or_fault():
    # Without numpy torch warns on import; nothing here needs it.
    warnings.filterwarnings("ignore")
    try:
        import torch
    except ImportError as e:
        raise Fault(f"{sys.executable} has no torch ({e}); install it: {sys.executable} -m pip install torch") from e
    return torch


# --- networks ------------------------------------------------------------------------------------


def networks(torch):
    """Functions from (input shape, classes) to a module, by name."""
    nn = torch.nn

    def conv(channels, width, kernel, stride=1, groups=1):
        return nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)

    class Unit(nn.Module):
        """A residual unit: `relu(body(x) + shortcut(x))`."""

        def __init__(self, body, channels, out, stride):
            super().__init__()
            self.body = nn.Sequential(*body)
            changes = channels != out or stride > 1
            self.shortcut = (
                nn.Sequential(conv(channels, out, 1, stride), nn.BatchNorm2d(out)) if changes else nn.Identity()
            )
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.body(x) + self.shortcut(x))

    def plain(channels, width, stride):
        body = [
            conv(channels, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv(width, width, 3),
            nn.BatchNorm2d(width),
        ]
        return Unit(body, channels, width, stride)

    def bottleneck(channels, width, stride):
        out = 4 * width
        body = [
            conv(channels, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv(width, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv(width, out, 1),
            nn.BatchNorm2d(out),
        ]
        return Unit(body, channels, out, stride)

    def pooled(features, classes):
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]

    def resnet20(shape, classes):
        layers = [conv(shape[0], 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
        channels = 16
        for width in (16, 32, 64):
            for _ in range(3):
                layers.append(plain(channels, width, 2 if channels != width else 1))
                channels = width
        return nn.Sequential(*layers, *pooled(channels, classes))

    def resnet(units, is_bottleneck):
        def make(shape, classes):
            layers = [
                conv(shape[0], 64, 7, 2),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, 1),
            ]
            channels = 64
            for stage, (width, count) in enumerate(zip((64, 128, 256, 512), units)):
                for unit in range(count):
                    stride = 2 if stage > 0 and unit == 0 else 1
                    layers.append((bottleneck if is_bottleneck else plain)(channels, width, stride))
                    channels = 4 * width if is_bottleneck else width
            return nn.Sequential(*layers, *pooled(channels, classes))

        return make

    class Inverted(nn.Module):
        """An inverted residual block, without a rectifier at its end."""

        def __init__(self, channels, wider, width, stride):
            super().__init__()
            middle = channels * wider
            body = []
            if wider > 1:
                body += [conv(channels, middle, 1), nn.BatchNorm2d(middle), nn.ReLU6(inplace=True)]
            body += [
                conv(middle, middle, 3, stride, groups=middle),
                nn.BatchNorm2d(middle),
                nn.ReLU6(inplace=True),
                conv(middle, width, 1),
                nn.BatchNorm2d(width),
            ]
            self.body = nn.Sequential(*body)
            self.adds = stride == 1 and channels == width

        def forward(self, x):
            return x + self.body(x) if self.adds else self.body(x)

    def mobilenetv2(shape, classes):
        layers = [conv(shape[0], 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)]
        channels = 32
        for wider, width, blocks, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for block in range(blocks):
                layers.append(Inverted(channels, wider, width, stride if block == 0 else 1))
                channels = width
        layers += [conv(channels, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU6(inplace=True)]
        return nn.Sequential(*layers, *pooled(1280, classes))

    def vgg(convolutions):
        def make(shape, classes):
            layers, channels = [], shape[0]
            for width, count in zip((64, 128, 256, 512, 512), convolutions):
                for _ in range(count):
                    layers += [conv(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                    channels = width
                layers.append(nn.MaxPool2d(2))
            features = channels * (shape[1] // 32) * (shape[2] // 32)
            layers.append(nn.Flatten())
            for _ in range(2):
                layers += [nn.Linear(features, 4096), nn.ReLU(inplace=True)]
                features = 4096
            return nn.Sequential(*layers, nn.Linear(features, classes))

        return make

    def lenet(shape, classes):
        features = 16 * ((shape[1] // 2 - 4) // 2) * ((shape[2] // 2 - 4) // 2)
        return nn.Sequential(
            nn.Conv2d(shape[0], 6, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(features, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Linear(84, classes),
        )

    def tcn(shape, classes):
        kernel, least_positions = 5, 4
        layers, (channels, length) = [], shape
        for width, wanted in zip((32, 48, 64, 64), (1, 2, 2, 2)):
            last = max(length + 2 * (kernel // 2) - kernel, 0)
            # A stride is lowered where the window is too short for it.
            stride = max(min(wanted, last // (least_positions - 1)), 1)
            layers += [
                nn.Conv1d(channels, width, kernel, stride, kernel // 2, bias=False),
                nn.GroupNorm(8, width),
                nn.ReLU(inplace=True),
            ]
            channels, length = width, last // stride + 1
        return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))

    class Gru(nn.Module):
        """One layer over a window; its last state decides. Both biases, as PyTorch has them."""

        HIDDEN = 64

        def __init__(self, channels, classes):
            super().__init__()
            self.gru = nn.GRU(channels, self.HIDDEN, batch_first=True)
            self.head = nn.Linear(self.HIDDEN, classes)

        def forward(self, x):
            _, last = self.gru(x.transpose(1, 2))
            return self.head(last[-1])

    return {
        "tcn": tcn,
        "gru": lambda shape, classes: Gru(shape[0], classes),
        "lenet": lenet,
        "resnet20": resnet20,
        "resnet18": resnet((2, 2, 2, 2), False),
        "resnet34": resnet((3, 4, 6, 3), False),
        "resnet50": resnet((3, 4, 6, 3), True),
        "resnet101": resnet((3, 4, 23, 3), True),
        "resnet152": resnet((3, 8, 36, 3), True),
        "mobilenetv2": mobilenetv2,
        "vgg11": vgg((1, 1, 2, 2, 2)),
        "vgg16": vgg((2, 2, 3, 3, 3)),
    }


# --- memory --------------------------------------------------------------------------------------


def status_bytes(field):
    """A size out of /proc/self/status, or None."""
    try:
        with open("/proc/self/status") as f:
            for line in f:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def reset_high_water():
    """Begins a new VmHWM where the system can; otherwise the old one only makes figures larger."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


# --- work ----------------------------------------------------------------------------------------


class Work:
    """A network with its batch, ready to run; `variant` is (channels last, how bf16 is done)."""

    def __init__(self, torch, args, variant):
        self.torch = torch
        self.channels_last, how = variant
        torch.manual_seed(1)
        net = networks(torch)[args.model](args.input, args.classes)
        self.parameters = sum(p.numel() for p in net.parameters())
        if args.parameters is not None and self.parameters != args.parameters:
            raise Fault(
                f"{args.model} has {self.parameters} parameters in PyTorch, {args.parameters} were expected: "
                "the two networks differ"
            )
        x = torch.randn(args.batch, *args.input)
        self.y = torch.arange(args.batch) % args.classes
        if how == "cast":
            net, x = net.to(torch.bfloat16), x.to(torch.bfloat16)
        if self.channels_last:
            net = net.to(memory_format=torch.channels_last)
            x = x.to(memory_format=torch.channels_last)
        self.net, self.x = net, x
        self.numbers = (
            (lambda: torch.autocast("cpu", dtype=torch.bfloat16)) if how == "autocast" else nullcontext
        )
        if args.mode == "step":
            self.net.train()
            self.optimizer = self.sgd(net)
            self.once = self.train
        else:
            self.net.eval()
            self.once = self.infer

    def sgd(self, net):
        make = lambda **how: self.torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, **how)
        try:
            return make(fused=True)
        except (RuntimeError, TypeError):
            # Before PyTorch 2.4 there is none for CPUs.
            return make()

    def train(self):
        self.optimizer.zero_grad(set_to_none=True)
        with self.numbers():
            loss = self.torch.nn.functional.cross_entropy(self.net(self.x), self.y)
        loss.backward()
        self.optimizer.step()

    def infer(self):
        with self.torch.inference_mode(), self.numbers():
            self.net(self.x)

    def seconds(self, steps):
        begin = time.perf_counter()
        for _ in range(steps):
            self.once()
        return time.perf_counter() - begin


def variants(args):
    """The usual ways to run this, of which the fastest counts."""
    images = len(args.input) == 3
    layouts = {"auto": [False, True], "yes": [True], "no": [False]}[args.channels_last] if images else [False]
    if args.precision == "f32":
        hows = ["f32"]
    else:
        hows = ["autocast", "cast"] if args.mode == "infer" else ["autocast"]
    return [(layout, how) for layout in layouts for how in hows]


def fastest(args):
    """Tries the variants in a process of its own, so that their memory does not count as the work's."""
    all_of_them = variants(args)
    if len(all_of_them) == 1:
        return all_of_them[0]
    if not hasattr(os, "fork"):
        raise Fault("this system cannot try variants; give --channels-last yes or no, and --precision f32")
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        try:
            torch = torch_or_fault()
            torch.set_num_threads(args.threads)
            works = [Work(torch, args, variant) for variant in all_of_them]
            rates = []
            for work in works:
                one = work.seconds(WARM_UP) / WARM_UP
                steps = max(int(REPEAT_SECONDS / one), 1)
                rates.append([min(work.seconds(steps) / steps for _ in range(3))])
            answer = {"best": min(range(len(works)), key=lambda i: rates[i])}
        except Fault as e:
            answer = {"error": str(e)}
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {e}"}
        with os.fdopen(into, "w") as f:
            json.dump(answer, f)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as f:
        said = f.read()
    os.waitpid(child, 0)
    answer = json.loads(said) if said else {"error": "PyTorch ended while variants were tried; out of memory?"}
    if "error" in answer:
        raise Fault(answer["error"])
    return all_of_them[answer["best"]]


def prepare(args):
    """The work, warmed up, and what is known of it before anything is timed."""
    variant = fastest(args)
    torch = torch_or_fault()
    torch.set_num_threads(args.threads)
    imported = status_bytes("VmRSS")
    work = Work(torch, args, variant)
    before = status_bytes("VmRSS")
    reset_high_water()
    work.seconds(WARM_UP)
    peak = status_bytes("VmHWM")
    over = lambda size: None if peak is None or size is None else max(peak - size, 0)
    about = {
        "name": "pytorch",
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": args.precision,
        "channels_last": variant[0],
        "bf16": None if args.precision == "f32" else variant[1],
        "parameters": work.parameters,
        "peak_bytes": over(before),
        "peak_with_model_bytes": over(imported),
    }
    return work, about


# --- command line --------------------------------------------------------------------------------


def shape(text):
    try:
        sizes = [int(part) for part in text.split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write e.g. 3x32x32 or 6x128")
    return sizes


def at_least_one(text):
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return number


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="pytorch_step.py"
    )
    parser.add_argument("--mode", choices=["step", "infer"], default="step", help="training steps, or inference")
    parser.add_argument("--model", choices=sorted(USUAL), required=True)
    parser.add_argument("--batch", type=at_least_one, default=32)
    parser.add_argument("--threads", type=at_least_one, default=os.cpu_count() or 1)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--channels-last", choices=["auto", "yes", "no"], default="auto")
    parser.add_argument("--input", type=shape, metavar="CxHxW", help="or CxL; as the network usually has it")
    parser.add_argument("--classes", type=at_least_one, help="as the network usually has them")
    parser.add_argument("--parameters", type=int, help="refuse to run unless the network has as many")
    parser.add_argument("--repeats", type=at_least_one, default=9)
    parser.add_argument("--serve", action="store_true", help="wait for `run STEPS` lines on standard input")
    args = parser.parse_args()
    input_shape, classes = USUAL[args.model]
    args.input = args.input or input_shape
    args.classes = args.classes or classes
    if len(args.input) != len(input_shape):
        parser.error(f"{args.model} takes an input like {'x'.join(map(str, input_shape))}")
    return args


def say(line):
    print(json.dumps(line), flush=True)


def serve(work, about):
    say({"ready": True, **about})
    for line in sys.stdin:
        words = line.split()
        if len(words) != 2 or words[0] != "run" or not words[1].isdigit():
            raise Fault(f"wants `run STEPS`, got {line.strip()!r}")
        steps = int(words[1])
        say({"steps": steps, "seconds": work.seconds(steps)})


def once(args, work, about):
    one = work.seconds(1)
    steps = max(-(-REPEAT_SECONDS // one), 1)
    rates = [args.batch * steps / work.seconds(int(steps)) for _ in range(args.repeats)]
    median = statistics.median(rates)
    say(
        {
            "mode": args.mode,
            "model": args.model,
            "input": args.input,
            "classes": args.classes,
            "batch": args.batch,
            "repeats": args.repeats,
            "images_per_s": median,
            "images_per_s_min": min(rates),
            "images_per_s_max": max(rates),
            "step_ms": 1000 * args.batch / median,
            **about,
        }
    )


def main():
    args = arguments()
    try:
        work, about = prepare(args)
        if args.serve:
            serve(work, about)
        else:
            once(args, work, about)
    except Fault as e:
        say({"error": str(e)})
        return 1
    except (RuntimeError, ValueError, MemoryError) as e:
        # E.g. an image that is too small for the network, or no memory for the batch.
        say({"error": f"{type(e).__name__}: {e}"})
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
