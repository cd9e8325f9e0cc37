"""What the stages that tune a pretrained model have in common: what is trained, by which steps, what is left and resumed."""
