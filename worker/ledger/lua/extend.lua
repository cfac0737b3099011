-- extend(rid, deadline_ms) -> 1 | 0 where it is no longer open
-- open zset
if not is_open(redis.call('HGET', reservation_key(ARGV[1]), 'state')) then return 0 end
redis.call('ZADD', OPEN, int(now_ms() + ARGV[2]), ARGV[1])
return 1
