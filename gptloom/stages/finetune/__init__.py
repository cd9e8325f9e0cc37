"""Fine-tuning for tasks: a body that was pretrained, a head for the task, and what of both is trained."""
