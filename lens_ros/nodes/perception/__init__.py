"""The node `perception`: camera images and instructions in, reasoning and masks out.

The path of one camera image, file by file
1. `camera_images` subscribes, checks the message and drops stale images.
2. `node` wires the parts; it hands the image to the scheduler.
3. `scheduler` keeps the newest image and decides what comes next (`tasks` defines what it decides about).
4. `worker` runs in the inference thread: decodes the image, tracks (`follower`), asks the model.
5. `inference` adapts the model: parameters, memory, backends that fail.
6. `answer_publisher` publishes segmentations and reasoning, with poses from `objects_3d` (depth comes from
   `depth_images`); `picture_publisher` publishes masks, overlays and markers.

Policy
- Between two reasoning passes, targets are tracked from image to image. Tracking also runs between two
  tokens, for at most half of the time. A target that is lost is reasoned about again.
- Only the newest image is kept. An image is decoded when it is used, not when it arrives.
- All targets that are due are answered about the same image, as one batch. The other targets are tracked to
  that image first.
- Setting an instruction pre-empts the batch in progress at its next token. Adding or removing one does not
  disturb the others. Every instruction is answered: one that ends before its answer is reported as
  unanswered, with the reason.
- An instruction that comes before any usable image waits for one.
- After a failure of the model, the target is asked about again after 5 s, then after 10, 20 and 40 s.
- Every instruction is answered once, or every `interval()` seconds if that is above 0. All repeated
  instructions are answered together, each time on a newer image, at most `max_rate_hz()` times a second.
- Jobs (with an image, or for the next camera image) are served in order of arrival. Jobs that wait for the
  same camera image are one batch. Jobs are not pre-empted. If jobs and targets wait, they take turns.
"""
