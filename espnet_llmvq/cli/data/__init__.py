"""Kaldi data directories, without Kaldi."""
