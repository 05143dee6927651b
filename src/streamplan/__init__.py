"""streamplan: train convolutional nets on images larger than memory, tile by tile, exactly."""
