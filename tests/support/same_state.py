import torch


def assert_same(expected: object, actual: object, name: str) -> None:
    """Compare nested dicts, lists and tuples, tensors in every bit. ``name`` says in a failure what differs."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(expected, actual), name
    elif isinstance(expected, dict):
        assert expected.keys() == actual.keys(), name
        for key in expected:
            assert_same(expected[key], actual[key], f'{name}.{key}')
    elif isinstance(expected, (list, tuple)):
        assert len(expected) == len(actual), name
        for i, pair in enumerate(zip(expected, actual)):
            assert_same(*pair, f'{name}.{i}')
    else:
        assert expected == actual, name
