"""The model families, a file each: config, state and predictor. A family never imports another one.

Parts that are large or shared lie beside this package: `stt.transformer`, `stt.motion_tokens`, `stt.code_tokens`,
`stt.gpt`, `stt.context_unet`, `stt.triple_decoder`, `stt.sprite_networks`. README.md says how to add a family.
"""
