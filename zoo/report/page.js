for (const block of document.querySelectorAll("pre")) {
  const command = document.createElement("div"), button = document.createElement("button");
  command.className = "command";
  button.textContent = "Copy";
  block.replaceWith(command);
  command.append(block, button);
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block);
      button.textContent = "Selected";
    }
  };
}
