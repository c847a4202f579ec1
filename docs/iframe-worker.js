// Browsers start no workers from files on a disk. There, the search of these pages runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(address) {
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = "<!doctype html>"
      this.started = new Promise((resolve, reject) => {
        this.frame.onload = () => {
          const { contentWindow: inside, contentDocument: page } = this.frame
          inside.postMessage = data => this.onmessage?.({ data })
          const script = page.createElement("script")
          script.src = address
          script.onload = () => resolve(inside)
          script.onerror = reject
          page.head.append(script)
        }
      })
      this.started.catch(() => this.onerror?.(new Event("error")))
      document.body.append(this.frame)
    }

    postMessage(data) {
      this.started.then(inside => inside.onmessage({ data }))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
