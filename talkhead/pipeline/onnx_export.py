"""A speaker's networks as ONNX files and ``torch.export`` programs, to run where this library is not.

Each network is written with what it needs as plain tensors:

* ``landmark.onnx``: sound (1, S), reference_landmarks (1, 68, 2) px, emotion (1, 8), level (1,) -> landmarks
  (1, T, 68, 2) px; S = 640 T samples at 25 frames per second;
* ``emotion.onnx``: sound (1, S) -> probabilities (1, 8);
* ``unet.onnx``: one step of the renderer's U-Net on a window.
"""
