"""From images in files to sharded batches: sources, decoding, global order, loading, placing."""
