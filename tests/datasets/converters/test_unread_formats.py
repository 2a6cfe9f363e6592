"""Formats that are recognised, but not read."""

import json

import pytest

from mmdet_sag.datasets.converters.tool_labels import hint


@pytest.mark.parametrize(
    ('name', 'content', 'tool'),
    [
        ('a.json', dict(project=dict(pid='x', data_format_version='3.1.1'), file={}), 'VGG Image Annotator 3'),
        ('a.csv', 'filename,file_size,file_attributes,region_count\n', 'CSV'),
        ('a.json', [dict(image='a.png', label=[dict(x=1, rectanglelabels=['cat'])])], 'JSON-MIN'),
        ('a.json', dict(metadata=dict(name='a.png', lastAction=dict(email='')), instances=[]), 'SuperAnnotate'),
        ('a.json', dict(version='2.0', schema_ref='https://host/darwin_json/2.0/schema.json', item={}), 'V7 Darwin'),
        ('a.ndjson', dict(data_row=dict(id='x')), 'Labelbox'),
    ],
)
def test_the_tool_and_a_remedy_are_named(name, content, tool, tmp_path):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert tool in hint(tmp_path) and tool in hint(tmp_path / name)


def test_other_files_get_no_hint(tmp_path):
    (tmp_path / 'a.json').write_text('{"version": 1}')
    assert hint(tmp_path) is None
