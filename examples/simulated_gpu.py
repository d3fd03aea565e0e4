"""Training on CUDA kernels without a GPU: the same steps on `cpu` and on `sim`, their losses side by side.

`sim` runs the files of csrc/cuda/ thread by thread, so this is for seeing that they are right, not for speed.
Run it from a checkout or anywhere after installation: python examples/simulated_gpu.py
"""

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import optim


def train(device: str, steps: int = 6) -> list[float]:
    """The loss of each step of a small cnn_lstm on 8 x 8 handwritten digits."""
    ie.manual_seed(0)
    train_set, _ = ie.data.load_train_test("digits")
    batches = ie.data.DataLoader(train_set, batch_size=16, shuffle=True, seed=0)
    model = ie.models.create("cnn_lstm", num_classes=10, in_channels=1, image_size=8, width=8, hidden_size=24)
    model.to(device)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _, batch in zip(range(steps), batches, strict=False):
        images, labels = (tensor.to(device) for tensor in batch)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.item()))
    return losses


def main() -> float:
    """Prints both runs and returns the largest relative difference of their losses."""
    on_cpu, on_sim = train("cpu"), train("sim")
    print("step      cpu           sim")
    for step, (a, b) in enumerate(zip(on_cpu, on_sim, strict=True), 1):
        print(f"{step:4}  {a:.8f}  {b:.8f}")
    difference = max(abs(a - b) / a for a, b in zip(on_cpu, on_sim, strict=True))
    print(f"largest relative difference: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
