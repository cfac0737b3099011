-- groups(constants) -> {group, under_way, milli, waiting, pause_ms, said, told x 3} ... by name
-- Only what lives is counted: dead slots leave at the next ask.
local names = redis.call('SMEMBERS', GROUPS)
table.sort(names)
local found = {}
for _, name in ipairs(names) do
  local key = P .. name
  local h = redis.call('HMGET', key .. ':b', 'milli', 'pause_until', 'said', 'told.requests',
    'told.input_tokens', 'told.output_tokens')
  local pause = math.max(tonumber(h[2] or '0') - now, 0)
  found[#found + 1] = {
    name,
    redis.call('ZCOUNT', key .. ':s', '(' .. int(now), '+inf'),
    h[1] or '0',
    redis.call('ZCOUNT', key .. ':l', '(' .. int(now - C.turn_ms), '+inf'),
    pause,
    pause > 0 and h[3] or '',
    h[4] or '0', h[5] or '0', h[6] or '0',
  }
end
return found
