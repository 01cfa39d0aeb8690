"""Contract suites for a new sampler, executor, model family, metric or modality; one module each."""
