from .seeded_group_multi_source_sampler import SeededGroupMultiSourceSampler

__all__ = ['SeededGroupMultiSourceSampler']
