"""``x̂ = f*_θ(y)``: denoisers, steps, contraction, the model."""
