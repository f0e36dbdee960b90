"use strict";
// Runs beside the page, in the browser's audio thread: hands on what the microphone gives, as it is.
registerProcessor("recorder", class extends AudioWorkletProcessor {
    process(inputs) {
        if (inputs[0].length) this.port.postMessage(inputs[0][0].slice());
        return true;
    }
});
