// Classify images over HTTP from Java 17 or newer, with no library: one JSON line per image.
// Usage: MILL_URL=http://127.0.0.1:8080 MILL_KEY=... MODEL=default java Classify.java REFERENCE...

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.Arrays;
import java.util.Set;
import java.util.UUID;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

public class Classify {
    static final String URL = System.getenv("MILL_URL"), KEY = System.getenv("MILL_KEY");
    static final String MODEL = System.getenv().getOrDefault("MODEL", "default");
    static final Set<String> FINAL = Set.of("succeeded", "partial", "failed", "cancelled", "expired");
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] references) throws Exception {
        String items = Arrays.stream(references)
            .map(one -> "{\"reference\": \"" + one.replace("\\", "\\\\").replace("\"", "\\\"") + "\"}")
            .collect(Collectors.joining(", "));
        String order = "{\"model\": \"" + MODEL + "\", \"priority\": \"interactive\", \"items\": [" + items + "]}";
        // With the same key it is the same job, however often it is sent.
        String job = call(to("/v1/jobs").header("Content-Type", "application/json")
            .header("Idempotency-Key", UUID.randomUUID().toString())
            .POST(HttpRequest.BodyPublishers.ofString(order)));
        String id = field(job, "id");
        while (!FINAL.contains(field(job, "status"))) {
            job = call(to("/v1/jobs/" + id + "?wait_s=30"));
        }
        System.err.println("job " + id + " " + field(job, "status"));
        System.out.print(call(to("/v1/jobs/" + id + "/results")));
    }

    static HttpRequest.Builder to(String path) {
        return HttpRequest.newBuilder(URI.create(URL + path)).header("Authorization", "Bearer " + KEY)
            .timeout(Duration.ofSeconds(60));
    }

    // Call, again where the queue is full or the server away.
    static String call(HttpRequest.Builder request) throws Exception {
        for (int attempt = 1; ; attempt++) {
            HttpResponse<String> answer = CLIENT.send(request.build(), HttpResponse.BodyHandlers.ofString());
            if (answer.statusCode() < 300) return answer.body();
            boolean isBusy = answer.statusCode() == 429 || answer.statusCode() == 503;
            if (!isBusy || attempt == 5) throw new IllegalStateException(field(answer.body(), "detail"));
            Thread.sleep(1000 * answer.headers().firstValueAsLong("Retry-After").orElse(1));
        }
    }

    // Enough for a field of plain text; a program of yours has a JSON library.
    static String field(String json, String name) {
        var found = Pattern.compile("\"" + name + "\":\\s*\"([^\"]*)\"").matcher(json);
        return found.find() ? found.group(1) : "";
    }
}
