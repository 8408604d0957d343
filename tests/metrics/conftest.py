from tests.shapes import check_shapes

check_shapes("trust_exp.metrics")
