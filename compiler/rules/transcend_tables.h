/* Written by compiler/rules/tool/fit.py; do not edit. Lowest power first. */
#pragma once

/* e^r = 1 + r + r^2 * p(r), |r| <= ln(2)/2; error 2^-28.2 */
static const double exp_poly_f32[] = {
    0x1.fffffc0000000p-2, 0x1.55548e0000000p-3,  0x1.55586a0000000p-5,
    0x1.123c580000000p-7, 0x1.6aa9740000000p-10,
};
/* 2^r = 1 + r * p(r), |r| <= 1/2; error 2^-26.2 */
static const double exp2_poly_f32[] = {
    0x1.62e4300000000p-1, 0x1.ebfb940000000p-3,  0x1.c6af9e0000000p-5,
    0x1.3b682c0000000p-7, 0x1.5ef5020000000p-10, 0x1.1783bc0000000p-13,
};
/* 2^r = 1 + r * p(r), |r| <= 1/2, for pow; error 2^-40.1 */
static const double exp2_wide_f32[] = {
    0x1.62e42fef8aa8ep-1,  0x1.ebfbdff8ece8bp-3,  0x1.c6b08dcd823aap-5,  0x1.3b2ab5ed792efp-7,
    0x1.5d874e2f75c1fp-10, 0x1.430aa9d7fce04p-13, 0x1.00d7b6f16ccc5p-16, 0x1.61c2a3088b9b3p-20,
};
/* log(1 + f) = f - f^2/2 + f^3 * p(f), -1/3 <= f <= 1/3; error 2^-28.8 */
static const double log_poly_f32[] = {
    0x1.5555560000000p-2,  -0x1.ffff140000000p-3, 0x1.99978e0000000p-3,
    -0x1.55980a0000000p-3, 0x1.24f2f40000000p-3,  -0x1.f3a3fe0000000p-4,
    0x1.b89fa00000000p-4,  -0x1.06daea0000000p-3, 0x1.eb57e80000000p-4,
};
/* log((1 + s)/(1 - s)) = 2s + s * z * p(z), z = s^2, |s| <= 1/5; error 2^-42.2 */
static const double log_odd_f32[] = {
    0x1.55555559215aep-1, 0x1.99998f2e30e75p-2, 0x1.2496eba44f78dp-2,
    0x1.c551a61f8eae4p-3, 0x1.9c3397bbd53b9p-3,
};
/* sin(r) = r + r^3 * p(r^2), |r| <= pi/4; error 2^-32.5 */
static const double sin_poly_f32[] = {
    -0x1.5555560000000p-3,
    0x1.1111740000000p-7,
    -0x1.a059540000000p-13,
    0x1.7c2c4c0000000p-19,
};
/* cos(r) = 1 - r^2/2 + r^4 * p(r^2), |r| <= pi/4; error 2^-33.0 */
static const double cos_poly_f32[] = {
    0x1.55554a0000000p-5,
    -0x1.6c0c280000000p-10,
    0x1.99e80c0000000p-16,
};
/* tanh(x) = x + x^3 * p(x^2), |x| <= 5/8; error 2^-32.4 */
static const double tanh_poly_f32[] = {
    -0x1.5555540000000p-2, 0x1.11107a0000000p-3,  -0x1.b9f1880000000p-5,
    0x1.63a5500000000p-6,  -0x1.0c5ed00000000p-7, 0x1.1a28180000000p-9,
};
/* erf(x) = x + x * p(x^2), |x| <= 0.9; error 2^-26.1 */
static const double erf_poly_f32[] = {
    0x1.06eba60000000p-3,  -0x1.8126ec0000000p-2, 0x1.ce1b860000000p-4,
    -0x1.b69b960000000p-6, 0x1.479c9e0000000p-8,  -0x1.3ba9ce0000000p-11,
};
/* erfc(x) = e^-p(x), 0.9 <= x <= 4; error relative to erf; error 2^-29.0 */
static const double erfc_poly_f32[] = {
    0x1.5d15700000000p-13, 0x1.20b7520000000p+0, 0x1.4621b80000000p-1,   0x1.aa73420000000p-4,
    -0x1.6d9d4a0000000p-6, 0x1.91ce820000000p-9, -0x1.9fb7a00000000p-13,
};
/* atan(t) = t + t^3 * p(t^2), |t| <= 1/2; error 2^-31.7 */
static const double atan_poly_f32[] = {
    -0x1.5555520000000p-2, 0x1.9997440000000p-3,  -0x1.2450300000000p-3,
    0x1.c072660000000p-4,  -0x1.480d2c0000000p-4, 0x1.3fd4f20000000p-5,
};
/* e^r = 1 + r + r^2 * p(r), |r| <= ln(2)/2; error 2^-60.7 */
static const double exp_poly_f64[] = {
    0x1.0000000000000p-1,  0x1.555555555555bp-3,  0x1.5555555555506p-5,  0x1.111111110ed27p-7,
    0x1.6c16c16c2faa6p-10, 0x1.a01a01b33dfaep-13, 0x1.a01a01381e074p-16, 0x1.71ddf0a90eb9ep-19,
    0x1.27e5b2afc1e2ap-22, 0x1.af6b19c70842bp-26, 0x1.1e3e019232519p-29,
};
/* 2^r = 1 + r * p(r), |r| <= 1/2; error 2^-55.5 */
static const double exp2_poly_f64[] = {
    0x1.62e42fefa39efp-1,  0x1.ebfbdff82c58fp-3,  0x1.c6b08d704a0c0p-5,  0x1.3b2ab6fba4e7dp-7,
    0x1.5d87fe78a66f3p-10, 0x1.430912f86a0cfp-13, 0x1.ffcbfc58a5de4p-17, 0x1.62c02248e8905p-20,
    0x1.b5253ce22ce02p-24, 0x1.e4cef922ab3cdp-28, 0x1.e8cbc54ffac70p-32, 0x1.c4c411df588e6p-36,
    0x1.809554a8b78e0p-40,
};
/* log((1 + s)/(1 - s)) = 2s + s * z * p(z), z = s^2, |s| <= 1/5; error 2^-66.8 */
static const double log_odd_f64[] = {
    0x1.5555555555555p-1, 0x1.9999999999b8bp-2, 0x1.2492492474233p-2,
    0x1.c71c71e2734b0p-3, 0x1.745d10e4372f0p-3, 0x1.3b1469337b003p-3,
    0x1.110d18912ec0bp-3, 0x1.df8033a68ba6cp-4, 0x1.e8fcf7f9006b5p-4,
};
/* sin(r) = r + r^3 * p(r^2), |r| <= pi/4; error 2^-63.2 */
static const double sin_poly_f64[] = {
    -0x1.5555555555555p-3,  0x1.1111111111069p-7,  -0x1.a01a019ffe4bep-13, 0x1.71de3a339652bp-19,
    -0x1.ae642c360c80bp-26, 0x1.6109a77591c38p-33, -0x1.9ff0a24e3ed98p-41,
};
/* cos(r) = 1 - r^2/2 + r^4 * p(r^2), |r| <= pi/4; error 2^-69.0 */
static const double cos_poly_f64[] = {
    0x1.5555555555555p-5,  -0x1.6c16c16c16b30p-10, 0x1.a01a019ffcb2ep-16, -0x1.27e4fb5a161e0p-22,
    0x1.1eed6f7044805p-29, -0x1.93743c0184f46p-37, 0x1.9da21e709aa64p-45,
};
/* tanh(x) = x + x^3 * p(x^2), |x| <= 5/8; error 2^-61.2 */
static const double tanh_poly_f64[] = {
    -0x1.5555555555552p-2,  0x1.1111111110c4ep-3,  -0x1.ba1ba1b9d13eap-5,  0x1.664f4870ac505p-6,
    -0x1.226e32cc72982p-7,  0x1.d6d359b22ddbfp-9,  -0x1.7d9c2becbed7cp-10, 0x1.350b47cf56e6ap-11,
    -0x1.f11067ac04e47p-13, 0x1.8010f1361024ep-14, -0x1.fa99692ef0651p-16, 0x1.95b56263d2f13p-18,
};
/* erf(x) = x + x * p(x^2), |x| <= 1; error 2^-56.3 */
static const double erf_poly_f64[] = {
    0x1.06eba8214db69p-3,  -0x1.812746b0379e7p-2,  0x1.ce2f21a042bddp-4,  -0x1.b82ce3128899bp-6,
    0x1.565bcd0e64ab8p-8,  -0x1.c02db3fed8f9ep-11, 0x1.f9a326bfb77d8p-14, -0x1.f4d255e14ed06p-17,
    0x1.b9e64d083ae30p-20, -0x1.5f6d6b55eca15p-23, 0x1.fc41174fed2d2p-27, -0x1.4e55cd8af99dcp-30,
    0x1.7ecbfbd5bc605p-34, -0x1.2928fbcef991cp-38,
};
/* erfc(x) = e^-p(x), 1 <= x <= 6; error relative to erf; error 2^-68.3 */
static const double erfc_poly_f64[] = {
    -0x1.1b278ac1a57bbp-26, 0x1.20dd788f6339ap+0,   0x1.45f2dbcc30fd9p-1,   0x1.a4fa0abb2a4efp-4,
    -0x1.399e725ddf463p-6,  -0x1.7dac3b645ef3bp-13, 0x1.b14bbd496af35p-10,  -0x1.187fff476d5fap-11,
    -0x1.03a2ac0b3fe9fp-15, 0x1.d6f9b04c30633p-14,  -0x1.06022efbdb526p-14, 0x1.67b1fba5dd76ep-16,
    -0x1.45f6e542ddb83p-18, 0x1.1cdc7bd60b09cp-21,  0x1.be9dc66f92491p-24,  -0x1.34b40ea432cb5p-24,
    0x1.6e04e8b5fe57fp-26,  -0x1.28f10b2372eebp-28, 0x1.64d32be52ed1cp-31,  -0x1.4114087e124cdp-34,
    0x1.a7be8fc405db7p-38,  -0x1.850c660864fabp-42, 0x1.bd312a6343001p-47,  -0x1.ded1080e7a14fp-53,
};
/* atan(t) = t + t^3 * p(t^2), |t| <= 1/2; error 2^-65.8 */
static const double atan_poly_f64[] = {
    -0x1.5555555555555p-2, 0x1.99999999998a9p-3, -0x1.249249248ac58p-3, 0x1.c71c71c34f6bap-4,
    -0x1.745d16b3a9f9fp-4, 0x1.3b13a2fd8b4d8p-4, -0x1.11101e0a75589p-4, 0x1.e1caf91b577aap-5,
    -0x1.ae61431f24273p-5, 0x1.812f24044d762p-5, -0x1.4db50df2e2df6p-5, 0x1.fc2cba053bcd8p-6,
    -0x1.0d0af33561a6ap-6, 0x1.1dfab95690670p-9, 0x1.4b1b1a398c385p-9,
};
/* ln(2), the first part short enough that n times it is exact */
static const double ln2_f32[] = {0x1.62e4000000000p-1, 0x1.7f7d1cf79abcap-20};
static const double ln2_f64[] = {0x1.62e42fefa0000p-1, 0x1.cf79abc9e3b3ap-40};
/* log2(e) */
static const double log2e_f32[] = {0x1.7154760000000p+0, 0x1.4ae0bf85ddf44p-26};
static const double log2e_f64[] = {0x1.71547652b82fep+0, 0x1.777d0ffda0d24p-56};
/* pi/4 */
static const double quarter_pi_f32[] = {0x1.921fb60000000p-1, -0x1.777a5cf72cecep-26};
static const double quarter_pi_f64[] = {0x1.921fb54442d18p-1, 0x1.1a62633145c07p-55};
/* pi/2 */
static const double quarter_turn[] = {0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54};
/* 2/pi less a multiple of 4 * 2^-b, for b = 0, 24, ... 96; see transcend.c */
static const double turns_f32[][2] = {
    {0x1.45f306dc9c883p-1, -0x1.6b01ec5417056p-55},
    {0x1.b727220a94fe1p-23, 0x1.d5f47d4d37703p-78},
    {0x1.529fc2757d1f5p-52, 0x1.a6ee06db14acdp-107},
    {0x1.3abe8fa9a6ee0p-75, 0x1.b6c52b3278872p-129},
    {0x1.f534ddc0db629p-96, 0x1.664f10e4107f9p-150},
};
/* 2/pi less a multiple of 4 * 2^-b, for b = 0, 48, ... 960; see transcend.c */
static const double turns_f64[][4] = {
    {0x1.45f306dc9c883p-1, -0x1.6b01ec5417056p-55, -0x1.6447e493ad4cep-109, 0x1.e21c820ff28b2p-163},
    {0x1.529fc2757d1f5p-52, 0x1.a6ee06db14acdp-107, -0x1.8778df7c035d4p-161,
     0x1.d5ef5de2b0db9p-215},
    {0x1.f534ddc0db629p-96, 0x1.664f10e4107f9p-150, 0x1.163abdebbc562p-204,
     -0x1.236e4716f6c8bp-258},
    {0x1.4acc9e21c8210p-143, -0x1.ae9c5421443aap-200, 0x1.b7246e3a424ddp-256,
     0x1.700324977504fp-311},
    {0x1.fe5163abdebbcp-192, 0x1.586dc91b8e909p-246, 0x1.ba5c00c925dd4p-301,
     0x1.3a32439fc3bd6p-357},
    {0x1.e2b0db92371d2p-239, 0x1.26e9700324977p-295, 0x1.413a32439fc3cp-349,
     -0x1.4e34ed658c117p-404},
    {0x1.2126e97003249p-287, 0x1.dd413a32439fcp-341, 0x1.deb1cb129a73fp-396,
     -0x1.77dca0ad144bbp-452},
    {0x1.2eea09d1921d0p-336, -0x1.e214e34ed658cp-392, -0x1.177dca0ad144cp-448,
     0x1.213a671c09ad1p-502},
    {0x1.fc3bd63962535p-385, -0x1.822efb9415a29p-441, 0x1.a24274ce38136p-495,
     -0x1.741037d8cdc54p-549},
    {0x1.a73ee88235f53p-432, -0x1.44bb7b16638fep-488, 0x1.ad17df904e647p-542,
     0x1.639835339f49dp-596},
    {0x1.2ebb4484e99c7p+32, 0x1.35a2fbf209cc9p-27, -0x1.4e33e566305b2p-83, 0x1.08bf177bf2507p-137},
    {0x1.c09ad17df904ep-18, 0x1.91d639835339fp-72, 0x1.272117e2ef7e5p-126, -0x1.7c4e007680022p-180},
    {0x1.3991d63983534p-64, -0x1.82d8dee81d108p-118, -0x1.b5f13801da001p-174,
     0x1.e05980fef2f12p-228},
    {0x1.9cfa4e422fc5ep-111, -0x1.036be27003b40p-167, -0x1.0fd33f8086877p-227,
     -0x1.d297d64b824b2p-282},
    {0x1.defc941d8ffc5p-159, -0x1.00043f4cfe022p-213, 0x1.788c5ad053690p-267,
     -0x1.25930261b069fp-321},
    {0x1.2fffbc0b301fep-209, -0x1.a1dce94beb25cp-265, -0x1.25930261b069fp-321,
     0x1.b74f463f669e6p-376},
    {0x1.f79788c5ad053p-255, 0x1.a3eda6cfd9e50p-309, -0x1.a7b24585ce04dp-363,
     0x1.3cbfd45aea4f7p-417},
    {0x1.368fb69b3f679p-303, 0x1.f2c26dd3d18fep-358, -0x1.961a015d28ad8p-412,
     -0x1.14e050683a131p-466},
    {0x1.93e584dba7a32p-351, -0x1.32c3402ba515bp-409, -0x1.14e050683a131p-466,
     0x1.0739f78a5292fp-520},
    {0x1.1fb34f2ff516cp-399, -0x1.5b08a7028341dp-453, -0x1.30be31821d6b6p-510,
     0x1.2ea6bfb5fb120p-564},
    {0x1.7527bac7ebe5fp-448, 0x1.7b3d0739f78a5p-504, 0x1.497535fdafd89p-559,
     -0x1.ca8bdea7f33eep-618},
};
