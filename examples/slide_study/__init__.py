"""Parts of `examples/whole_slide.py`: nets, slides, training, the study by input size, one large step, pictures."""
