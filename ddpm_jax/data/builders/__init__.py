"""TensorFlow Datasets builders that prepare their data without TensorFlow.

The stock builders of these sets unpack archives, read files and encode PNGs with
TensorFlow. These do it with the standard library and Pillow, and write array_record.
Their names differ from the stock ones, so that the two never share a directory.
"""
