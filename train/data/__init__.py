"""What a step of training is fed with: pairs of shards, their order, pictures and captions with augmentation."""
