"""Kaldi data directories, audio, normalisers, perturbation and speech synthesis."""
