"""The study of equal modules: how often does `parity.check` fail what is right?"""
