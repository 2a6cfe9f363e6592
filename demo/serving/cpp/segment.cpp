// Runs a model.xml that tools/deployment/export.py wrote on an image, with OpenVINO. For each object it prints class,
// score, x1, y1, x2, y2 and the number of the mask's pixels; with a third argument, it draws them into a picture.
// It does what runtime.py beside the model does, but of a panoptic model it finds the instances alone.
//
//   segment exported/model.xml picture.jpg [drawn.png] [lowest score, 0.3]

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <openvino/openvino.hpp>

using nlohmann::json;

struct Box {
    float x1, y1, x2, y2;
};

// Mask probabilities in a box; rows x columns of float.
struct Mask {
    cv::Mat probs;
    Box box;
};

// Size of an image as the network sees it; `resize` is the metadata's `preprocessing.resize`.
cv::Size resized_size(int width, int height, const json& resize) {
    const auto scale = resize["scale"].get<std::vector<int>>();
    const double target = std::min(scale[0], scale[1]), limit = std::max(scale[0], scale[1]);
    const double shorter = std::min(width, height), longer = std::max(width, height);
    if (resize["mode"] == "exact") return {scale[0], scale[1]};
    if (resize["mode"] == "keep_ratio" || resize["mode"] == "fit") {
        const double fits = std::min(scale[0] / double(width), scale[1] / double(height));
        const double factor = resize["mode"] == "fit" ? fits : std::min(limit / longer, target / shorter);
        return {int(width * factor + 0.5), int(height * factor + 0.5)};
    }
    double side = target;
    if (longer / shorter * target > limit) side = std::max(std::nearbyint(limit * shorter / longer), 1.0);
    const int short_side = int(side), long_side = int(std::floor(side * longer / shorter));
    return {width == int(shorter) ? short_side : long_side, height == int(shorter) ? short_side : long_side};
}

// Pillow's bilinear filter along the rows: a triangle over all pixels that go into one, in fixed point.
cv::Mat resize_rows_like_pillow(const cv::Mat& image, int size) {
    if (image.rows == size) return image;
    const double scale = double(image.rows) / size, support = std::max(scale, 1.0);
    cv::Mat result(size, image.cols, CV_8UC3);
    for (int i = 0; i < size; ++i) {
        const double centre = (i + 0.5) * scale;
        const int first = std::max(int(centre - support + 0.5), 0);
        const int last = std::min(int(centre + support + 0.5), image.rows);
        std::vector<double> weights;
        double sum = 0;
        for (int j = first; j < last; ++j) {
            weights.push_back(std::max(1 - std::abs((j - centre + 0.5) * (1 / support)), 0.0));
            sum += weights.back();
        }
        std::vector<int> totals(image.cols * 3, 1 << 21);
        for (int j = first; j < last; ++j) {
            const int weight = int(std::floor(weights[j - first] / sum * (1 << 22) + 0.5));
            const uchar* row = image.ptr(j);
            for (size_t k = 0; k < totals.size(); ++k) totals[k] += row[k] * weight;
        }
        for (size_t k = 0; k < totals.size(); ++k) result.ptr(i)[k] = uchar(std::min(totals[k] >> 22, 255));
    }
    return result;
}

cv::Mat resize_image(const cv::Mat& image, cv::Size size, bool like_pillow) {
    cv::Mat result;
    if (like_pillow) {
        cv::transpose(resize_rows_like_pillow(image.t(), size.width), result);
        return resize_rows_like_pillow(result, size.height);
    }
    cv::resize(image, result, size, 0, 0, cv::INTER_LINEAR);
    return result;
}

// The model's input `images`: a resized image (blue, green, red) normalized and padded.
ov::Tensor normalize(const cv::Mat& image, const json& metadata) {
    const json& settings = metadata["preprocessing"];
    const int divisor = settings["pad_size_divisor"];
    // OpenVINO's pooling kernels need at least 64 pixels.
    const auto padded = [&](int side) { return size_t(std::max((side + divisor - 1) / divisor * divisor, 64)); };
    size_t rows = padded(image.rows), columns = padded(image.cols);
    if (metadata.contains("input_size")) rows = metadata["input_size"][0], columns = metadata["input_size"][1];
    const auto mean = settings["mean"].get<std::vector<float>>(), std = settings["std"].get<std::vector<float>>();
    ov::Tensor tensor(ov::element::f32, {1, 3, rows, columns});
    float* data = tensor.data<float>();
    std::fill_n(data, tensor.get_size(), settings["pad_value"].get<float>());
    for (size_t channel = 0; channel < 3; ++channel) {
        const size_t source = settings["bgr_to_rgb"].get<bool>() ? 2 - channel : channel;
        for (int y = 0; y < image.rows; ++y)
            for (int x = 0; x < image.cols; ++x)
                data[(channel * rows + y) * columns + x] =
                    (image.ptr(y)[3 * x + source] - mean[channel]) / std[channel];
    }
    return tensor;
}

// A mask with a border of zeros, and a box of whole pixels that grew with it: CenterMask's first implementation.
Mask with_ring(const Mask& mask) {
    Mask ringed;
    cv::copyMakeBorder(mask.probs, ringed.probs, 1, 1, 1, 1, cv::BORDER_CONSTANT, 0);
    const auto grow = [](float low, float high, int size) {
        const float half = (high - low) * 0.5f * (float(size + 2) / size), centre = (high + low) * 0.5f;
        return std::pair(std::trunc(centre - half), std::trunc(centre + half) + 1);
    };
    std::tie(ringed.box.x1, ringed.box.x2) = grow(mask.box.x1, mask.box.x2, mask.probs.cols);
    std::tie(ringed.box.y1, ringed.box.y2) = grow(mask.box.y1, mask.box.y2, mask.probs.rows);
    return ringed;
}

// First pixel that a mask may reach, and the weights of its samples in each pixel from there, pixels x size.
std::pair<int, cv::Mat> samples(float low, float high, int size, int length) {
    const int first = std::max(int(std::floor(low)) - 1, 0), last = std::min(int(std::ceil(high)) + 1, length);
    cv::Mat weights = cv::Mat::zeros(std::max(last - first, 0), size, CV_32F);
    for (int i = 0; i < weights.rows; ++i) {
        float grid = (first + i + 0.5f - low) / (high - low) * 2 - 1;
        // As MMDetection does where a box has no extent.
        if (std::isinf(grid)) grid = 0;
        const float place = ((grid + 1) * size - 1) / 2, before = std::floor(place);
        if (before >= 0 && before < size) weights.at<float>(i, int(before)) = 1 - (place - before);
        if (before >= -1 && before < size - 1) weights.at<float>(i, int(before) + 1) = place - before;
    }
    return {first, weights};
}

// A mask's pixels, 255 where the object is, and its place in the image.
std::pair<cv::Rect, cv::Mat> paste(const Mask& mask, cv::Size image, float threshold) {
    const auto [left, across] = samples(mask.box.x1, mask.box.x2, mask.probs.cols, image.width);
    const auto [top, down] = samples(mask.box.y1, mask.box.y2, mask.probs.rows, image.height);
    if (across.empty() || down.empty()) return {};
    const cv::Mat values = down * mask.probs * across.t();
    return {cv::Rect(left, top, across.rows, down.rows), values >= threshold};
}

void run(const std::string& model_path, const std::string& image_path, const std::string& drawn_path, float lowest) {
    const cv::Mat image = cv::imread(image_path, cv::IMREAD_COLOR);
    if (image.empty()) throw std::runtime_error(image_path + ": is no image, damaged or missing");
    ov::Core core;
    const auto model = core.read_model(model_path);
    if (!model->has_rt_info("mmdet_sag")) throw std::runtime_error(model_path + ": is no model.xml of an export");
    const json metadata = json::parse(model->get_rt_info<std::string>("mmdet_sag"));
    const int version = metadata["runtime_version"];
    if (version != 1 && version != 2) throw std::runtime_error(model_path + ": is of another version");
    if (metadata.contains("panoptic"))
        std::fputs("of this panoptic model, only the instances are found; runtime.py merges them with stuff\n", stderr);

    const json& settings = metadata["preprocessing"];
    const cv::Size size = resized_size(image.cols, image.rows, settings["resize"]);
    if (size.empty()) throw std::runtime_error(image_path + ": is too narrow");

    const std::string precision = metadata["precision"];
    // Of int8, for the layers that stayed in float. A CPU without the instructions for it computes in float32.
    const auto type = precision == "bf16" || precision == "int8" ? ov::element::bf16
                      : precision == "fp16"                      ? ov::element::f16
                                                                 : ov::element::f32;
    auto compiled = core.compile_model(model, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                       ov::hint::inference_precision(type));
    auto request = compiled.create_infer_request();
    float x_scale = 1, y_scale = 1;
    if (settings.value("in_graph", false)) {
        const ov::Shape shape{1, size_t(image.rows), size_t(image.cols), 3};
        request.set_tensor("images", ov::Tensor(ov::element::u8, shape, image.data));
    } else {
        x_scale = float(double(size.width) / image.cols), y_scale = float(double(size.height) / image.rows);
        ov::Tensor sizes(ov::element::i64, {1, 2});
        sizes.data<int64_t>()[0] = size.height;
        sizes.data<int64_t>()[1] = size.width;
        request.set_tensor("image_sizes", sizes);
        const bool like_pillow = settings["resize"]["backend"] == "pillow";
        request.set_tensor("images", normalize(resize_image(image, size, like_pillow), metadata));
    }
    request.infer();

    ov::Tensor probs = request.get_tensor("mask_probs");
    const auto shape = probs.get_shape();
    const size_t rows = shape[shape.size() - 2], columns = shape.back();
    // A fixed number of detections is filled up with zeros.
    size_t count = request.get_tensor("scores").get_size();
    if (metadata.contains("detections")) count = request.get_tensor("num_detections").data<int64_t>()[0];
    const float* boxes = request.get_tensor("boxes").data<float>();
    const float* scores = request.get_tensor("scores").data<float>();
    const int64_t* labels = request.get_tensor("labels").data<int64_t>();
    const bool inclusive = metadata["inclusive_boxes"];
    cv::Mat drawn = image.clone();
    // The best is drawn last, and so lies on top; lines are printed the best first.
    std::vector<std::string> lines;
    for (size_t i = count; i-- > 0;) {
        if (!(scores[i] >= lowest)) continue;
        Mask mask;
        mask.probs = cv::Mat(int(rows), int(columns), CV_32F, probs.data<float>() + i * rows * columns);
        const float* box = boxes + 4 * i;
        mask.box = {box[0] / x_scale, box[1] / y_scale, box[2] / x_scale, box[3] / y_scale};
        const auto [place, pixels] = paste(inclusive ? with_ring(mask) : mask, image.size(), metadata["mask_thr"]);
        const Box shown{mask.box.x1, mask.box.y1, mask.box.x2 + inclusive, mask.box.y2 + inclusive};
        const std::string name = metadata["classes"][labels[i]];
        char numbers[160];
        std::snprintf(numbers, sizeof numbers, "\t%.6f\t%.4f\t%.4f\t%.4f\t%.4f\t%d", scores[i], shown.x1, shown.y1,
                      shown.x2, shown.y2, pixels.empty() ? 0 : cv::countNonZero(pixels));
        lines.push_back(name + numbers);
        const auto rgb = metadata["palette"][labels[i]].get<std::vector<int>>();
        const cv::Scalar colour(rgb[2], rgb[1], rgb[0]);
        if (!pixels.empty()) {
            cv::Mat part = drawn(place);
            cv::Mat mixed;
            cv::addWeighted(part, 0.5, cv::Mat(part.size(), part.type(), colour), 0.5, 0, mixed);
            mixed.copyTo(part, pixels);
        }
        cv::rectangle(drawn, cv::Point2f(shown.x1, shown.y1), cv::Point2f(shown.x2, shown.y2), colour, 1);
    }
    for (auto line = lines.rbegin(); line != lines.rend(); ++line) std::puts(line->c_str());
    if (!drawn_path.empty() && !cv::imwrite(drawn_path, drawn)) throw std::runtime_error(drawn_path + ": cannot be written");
}

int main(int count, char** arguments) {
    if (count < 3 || count > 5) {
        std::fprintf(stderr, "usage: %s MODEL_XML IMAGE [PICTURE] [LOWEST_SCORE]\n", arguments[0]);
        return 2;
    }
    try {
        run(arguments[1], arguments[2], count > 3 ? arguments[3] : "", count > 4 ? std::stof(arguments[4]) : 0.3f);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 2;
    }
    return 0;
}
