"""Writes events.out.tfevents.oodkit with TensorBoard's own record writer and messages, and reads it back.

The Rust writer must produce these bytes. Made with tensorboard 2.21.0; run it in this folder.
"""

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

NAME = "events.out.tfevents.oodkit"
CLOCK = 1_700_000_000.25


def scalars(step, values):
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
    return Event(wall_time=CLOCK, step=step, summary=summary)


events = [Event(wall_time=CLOCK, file_version="brain.Event:2")]
for step in (199, 200, 201):
    loss = 2.5 / step
    events.append(
        scalars(
            step,
            [
                ("loss/total", loss),
                ("lr", 0.1),
                ("accuracy/batch", 0.5),
                ("loss/cross_entropy", loss),
                ("loss/sparsity", 0.125),
            ],
        )
    )
    if step % 200 == 0:
        events.append(scalars(step, [("accuracy/train", 0.75), ("accuracy/validation", 0.625)]))

with open(NAME, "wb") as file:
    writer = RecordWriter(file)
    for event in events:
        writer.write(event.SerializeToString(deterministic=True))
    writer.flush()

reader = EventAccumulator(NAME)
reader.Reload()
print("tensorboard", tensorboard.__version__)
for tag in reader.Tags()["scalars"]:
    print(tag, [(event.step, event.value, event.wall_time) for event in reader.Scalars(tag)])
