"""The node `perception`: camera images and instructions in, reasoning and masks out."""
