"""Programs that prepare models for a robot: quantize, deploy, check. They build on `lens_ros.lens`."""
