-- sweep(limit, grace_ms, longest_ms) -> sid step queue ... of what is overdue
-- Each is told again after grace_ms, doubled every time up to longest_ms, so that a long queue is
-- not filled with repeats of what waits in it.
local told = {}
local grace, longest = tonumber(ARGV[2]), tonumber(ARGV[3])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', int(now), 'LIMIT', 0, ARGV[1])) do
  local slash = string.find(name, '/', 1, true)
  local sid, step = string.sub(name, 1, slash - 1), string.sub(name, slash + 1)
  local counts, queue = session_key(sid), 'control'
  if step ~= 'drive' then
    counts = row_key(sid, step)
    queue = redis.call('HGET', counts, 'queue')
  end
  if not queue then
    redis.call('ZREM', DUE, name)
  else
    local tells = redis.call('HINCRBY', counts, 'tells', 1)
    redis.call('ZADD', DUE, int(now + math.min(grace * 2 ^ math.min(tells, 10), longest)), name)
    told[#told + 1] = sid
    told[#told + 1] = step
    told[#told + 1] = queue
  end
end
return told
