// The menu of models; see menu.py. Gradio runs this as a function's body with: element, trigger, props, watch.
// Event to the server: 'choose'.

const menu = element.querySelector("select");

menu.addEventListener("change", () => {
  props.value = menu.value;
  trigger("choose");
});
const show = () => (menu.value = props.value);
watch("value", show);
show();
