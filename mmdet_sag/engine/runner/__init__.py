from .loops import ReproducibleEpochBasedTrainLoop, ReproducibleIterBasedTrainLoop

__all__ = ['ReproducibleEpochBasedTrainLoop', 'ReproducibleIterBasedTrainLoop']
