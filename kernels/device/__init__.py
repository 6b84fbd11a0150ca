"""What a model needs whose arrays stay on a device: the GPU, its memory, the cache, the operations."""
