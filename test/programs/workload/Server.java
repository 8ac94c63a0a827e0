import com.sun.net.httpserver.HttpServer;
import java.lang.management.ManagementFactory;
import java.net.InetSocketAddress;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** An HTTP server as Java programs are: a pool of threads, timers, garbage that is collected, code that is compiled. */
public class Server {
  static final AtomicLong total = new AtomicLong();
  static final Map<InetSocketAddress, AtomicLong> served = new ConcurrentHashMap<>();
  static volatile byte[][] held = new byte[64][];

  static long collections() {
    return ManagementFactory.getGarbageCollectorMXBeans().stream().mapToLong(bean -> bean.getCollectionCount()).sum();
  }

  public static void main(String[] arguments) throws Exception {
    var ticks = new AtomicLong();
    var timer = Executors.newScheduledThreadPool(2);
    timer.scheduleAtFixedRate(() -> System.out.println("tick " + ticks.incrementAndGet()), 0, 100, TimeUnit.MILLISECONDS);
    // What is kept moves on all the time: 4 MB live, 20 MB of garbage a second.
    timer.scheduleAtFixedRate(() -> held[(int) (System.nanoTime() % 64)] = new byte[200_000], 0, 10, TimeUnit.MILLISECONDS);
    var server = HttpServer.create(new InetSocketAddress(8080), 128);
    server.setExecutor(Executors.newFixedThreadPool(16));
    server.createContext("/", exchange -> {
      var body = exchange.getRequestBody().readAllBytes();
      var serial = served.computeIfAbsent(exchange.getRemoteAddress(), key -> new AtomicLong()).incrementAndGet();
      exchange.getResponseHeaders().set("X-Serial", Long.toString(serial));
      exchange.getResponseHeaders().set("X-Total", Long.toString(total.incrementAndGet()));
      exchange.getResponseHeaders().set("X-Work", Long.toString(collections()));
      exchange.sendResponseHeaders(200, body.length);
      try (var out = exchange.getResponseBody()) {
        out.write(body);
      }
    });
    server.start();
  }
}
