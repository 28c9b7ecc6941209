"""Schedules and weights of the training objectives: pure functions of how far training is."""


def commit_weight(
    epochs_done: float, continuous_epochs: int, start: float, maximum: float, ramp_epochs: float
) -> float:
    """beta of Eq. (8): 0 while nothing is quantized, then linear from `start` to `maximum` over `ramp_epochs`."""
    quantized_epochs = epochs_done - continuous_epochs
    if quantized_epochs < 0:
        return 0.0
    if ramp_epochs <= 0:
        return maximum
    return start + (maximum - start) * min(1.0, quantized_epochs / ramp_epochs)
