"""What a run will take, before it takes it: memory, steps, hours, disk, and the cheapest change that makes it fit."""
