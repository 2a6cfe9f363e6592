from .generated_config import GeneratedConfig
from .training_data_summary import TrainingDataSummary

__all__ = ['GeneratedConfig', 'TrainingDataSummary']
