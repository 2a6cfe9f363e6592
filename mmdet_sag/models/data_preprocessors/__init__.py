from .box_supervised_data_preprocessor import BoxSupervisedDataPreprocessor

__all__ = ['BoxSupervisedDataPreprocessor']
