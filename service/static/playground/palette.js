/** Colours of the classes: the same table as in the overlay pictures of the server. */

// 256 colours of six hexadecimal digits, in the order of the class ids
const TABLE = [
  "2680eb87f03cff4b00008700f0b4ffb4009600d2e1ffb43c965a0fc369ff87b45aff4ba5784bc3c30f3c87a5ffb46996",
  "00a5a5ff9696c3873c96e1a5ff78f000b4000078a5878700d2d20f8778d2d287c3c35a4bff872d00d296d24bc3e11e78",
  "5ad21e964b87f069782d5ae11ea5e1a54be13c965ad2a500c396ff0ff09600f0e17869ff00b478ff96d2e11e0069c3ff",
  "5a69c3b43c00a54b5ac3c369a5c3005a781e9687ffa55ab469e1fff03c5ab478d24b87c3e18769962dc3b46900c33c96",
  "4b96ffe1690069a51e00c3b4c30069ff78a5d25a78e169c33cc35aa5e16978d269f0a569a5961ed278960069c3f096ff",
  "785aa5e1d2783c69ffa53ca5e14b96695ae1e169f07896e14be1b400a53c00874bd23c4be15a4be1963c0096b43cb4d2",
  "2db4ffff785aa569f000e169c32db478c387d2a5f0ff69c3d24b00b44b78b4b43c87b400f0c300c369b4ffc378874be1",
  "b4e10069a55ae187e100c3f0a596f0b45ad28769b4ff6900ff4b78964bc35a87e13cb4965a8700e1b45a3cc30f2d78c3",
  "a5d278b42d5ac3961e78e15af096b496780fd2784bf0a500e18796c387e15a78ffd21e5a1e96006978c39687d2a55a96",
  "4b69e1e196d27869d269962df03c2d3cf069b45a6969e1d2c3c32df09678ffa5c31ea5c30096d296b4ff3ca5783cd2ff",
  "78e1878778f096c35a4bd2c3b487ffe169a5c31e0fffa5872db44bc30f8796a50fff4b4b0087b4b43c3c7896ff5af0b4",
  "d25ae1b45a2df0694ba5872d00a5ff87d29600b4b4f05ad2e187ff87963ca5a54bd2696900967800c396c3693c00e196",
  "6987ff5aa5f069b4781ee1f000c3d2965af078c300e1b40096d20078780f874ba5ff87e1ff7887e10f3c5a4be178f078",
  "00d25a69b4f0a53c789669d2e12d967887d2c378f0b478b4a51eb40087d2b4a5ff4b96e1f03c78ff96005ab400d278d2",
  "6978e1f087c3b4a500ffa5f0d27800c35a9687e100b4d23cd22da5c369d2695ac3b4e1875ad2a569b44bb44ba5b43cc3",
  "875ad296690fd23c87f0c35a69c369c3a54b4b5af03ca55ad2d25a0078ffa54b2dff8778e17878ff965a3c87ffd24ba5",
].join("");
const COLOURS = Array.from({ length: TABLE.length / 6 }, (_, id) =>
  [0, 2, 4].map((digit) => Number.parseInt(TABLE.slice(id * 6 + digit, id * 6 + digit + 2), 16)),
);

/**
 * @param {number} classId
 * @returns {[number, number, number]} sRGB, 0..255; ids from 256 on start over
 */
export function classColour(classId) {
  return COLOURS[classId % COLOURS.length];
}

export function cssColour([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** Black or white, whichever has the higher contrast on the colour. */
export function inkOn(colour) {
  const [red, green, blue] = colour.map((value) => linear(value / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#0b1211" : "#ffffff";
}

function linear(value) {
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
}
