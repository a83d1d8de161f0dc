"""A prepared TFDS data set, written as `tfds build` leaves it, without TensorFlow."""

import json

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter


def write_tfds(data_dir, name, features, splits, *, version="1.0.0", file_format="array_record"):
    """Writes data_dir/name/version, and returns that directory.

    Args:
      data_dir: directory of data sets.
      name: name of the data set.
      features: name -> TFDS feature.
      splits: name -> examples as dicts, or as bytes that are written as they are.
      version: version of the data set.
      file_format: what file names and metadata say.
    """
    directory = data_dir / name / version
    directory.mkdir(parents=True)
    features = tfds.features.FeaturesDict(features)
    features.save_config(directory)
    for split, examples in splits.items():
        path = directory / f"{name}-{split}.{file_format}-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for example in examples:
            record = example if isinstance(example, bytes) else features.serialize_example(example)
            writer.write(record)
        writer.close()
    info = {
        "name": name,
        "version": version,
        "fileFormat": file_format,
        "splits": [
            {
                "name": split,
                "shardLengths": [str(len(examples))],
                "numBytes": "1",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, examples in splits.items()
        ],
    }
    (directory / "dataset_info.json").write_text(json.dumps(info))
    return directory
