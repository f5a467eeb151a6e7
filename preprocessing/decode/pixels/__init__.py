"""What decoded pixels mean: planes, colour and orientation, converted to RGB or BT.709."""
